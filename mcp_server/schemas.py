"""Output schemas as clients get them: short, because every client pays for all of them when it connects.

What pydantic generates is made smaller in two ways. Nothing is lost by the first: titles that repeat the
name, defaults that apply to nothing, `additionalProperties: true` (which JSON Schema assumes), unions
written as lists of types, definitions that are used once. By the second, of each `Brief` model, an object
deep in an answer, only that it is an object is checked, and its keys are told in words. What a schema
says is true of every answer either way; models in `wire*` say it all, and tests hold answers against them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from mcp_server.wire import Shown

MOST_CHOICES: Final = 12
"""Values of a closed set that are told in words; of a larger one its description speaks."""

_SAYS_NOTHING: Final = ("title", "default")
_BRIEF: Final = "x-brief"
_DEFINITIONS: Final = "#/$defs/"


class Brief(Shown):
    """Part of an answer whose keys the schema tells in words: `key`, `key?` when it may be missing,
    `key|null` when it may be null, `key[]` for a list, then what it is."""

    model_config = ConfigDict(json_schema_extra={_BRIEF: True})


def output_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a tool's structured content."""
    schema = model.model_json_schema(mode="serialization")
    definitions = schema.pop("$defs", {})
    schema.pop("description", None)  # the tool's own says more
    short = _Shortener(definitions).of(schema)
    # A definition that several places name stays one; the others were put in their only place.
    kept: dict[str, Any] = {}
    waiting = [*_named(short)]
    while waiting:
        name = waiting.pop()
        if name not in kept:
            kept[name] = _Shortener(definitions).of(definitions[name])
            waiting += _named(kept[name])
    counts = {name: _uses(name, short, kept) for name in kept}
    single = {name: kept[name] for name, count in counts.items() if count == 1}
    body = _inlined(short, single)
    rest = {name: _inlined(kept[name], single) for name in kept if name not in single}
    return {**body, **({"$defs": rest} if rest else {})}


class _Shortener:
    """Makes one schema short. Definitions are those of the whole document."""

    def __init__(self, definitions: Mapping[str, Mapping[str, Any]]) -> None:
        self._definitions = definitions

    def of(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """The schema without what says nothing."""
        if schema.get(_BRIEF):
            return {"type": "object", "description": self._told(schema)}
        short: dict[str, Any] = {}
        for key, value in schema.items():
            if key == "properties":
                short[key] = {name: self.of(each) for name, each in value.items()}
            elif key in ("anyOf", "allOf", "oneOf"):
                short[key] = [self.of(each) for each in value]
            elif key in ("items", "additionalProperties") and isinstance(value, Mapping):
                short[key] = self.of(value)
            elif key not in _SAYS_NOTHING and not (key == "additionalProperties" and value is True):
                short[key] = " ".join(value.split()) if key == "description" else value
        if "enum" in short:
            short.pop("description", None)  # of the set itself; what a value means here, its place says
        return _with_types(short)

    def _told(self, schema: Mapping[str, Any]) -> str:
        return f"{' '.join(schema.get('description', '').split())} Keys: {self._keys(schema)}.".strip()

    def _keys(self, schema: Mapping[str, Any]) -> str:
        required = schema.get("required", ())
        told = []
        for name, each in schema["properties"].items():
            kinds = [self._resolved(kind) for kind in each.get("anyOf", [each])]
            nullable = "|null" if any(kind.get("type") == "null" for kind in kinds) else ""
            inner = next((kind for kind in kinds if kind.get("type") != "null"), kinds[0])
            listed = "[]" if inner.get("type") == "array" else ""
            if listed:
                inner = self._resolved(inner.get("items", {}))
            words = [*self._words(inner, each.get("description"))]
            text = f"{name}{listed}{'' if name in required else '?'}{nullable}"
            told.append(f"{text} ({'; '.join(words)})" if words else text)
        return ", ".join(told)

    def _words(self, inner: Mapping[str, Any], description: str | None) -> Iterator[str]:
        choices = inner.get("enum", ())
        if description:
            yield description.rstrip(".")
        elif 0 < len(choices) <= MOST_CHOICES:
            yield "|".join(map(str, choices))
        if inner.get(_BRIEF):
            yield f"keys: {self._keys(inner)}"

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        name = _name(schema)
        return schema if name is None else self._definitions[name]


def _with_types(schema: dict[str, Any]) -> dict[str, Any]:
    """`anyOf` of bare types as a list of types."""
    union = schema.get("anyOf")
    if union is None or not all(set(each) == {"type"} for each in union):
        return schema
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return {"type": [each["type"] for each in union], **rest}


def _name(schema: Mapping[str, Any]) -> str | None:
    reference = schema.get("$ref")
    return reference.removeprefix(_DEFINITIONS) if isinstance(reference, str) else None


def _named(schema: object) -> Iterator[str]:
    """The definitions that a schema names, as often as it does."""
    if isinstance(schema, Mapping):
        if (name := _name(schema)) is not None:
            yield name
        for each in schema.values():
            yield from _named(each)
    elif isinstance(schema, Sequence) and not isinstance(schema, str):
        for each in schema:
            yield from _named(each)


def _uses(name: str, body: object, definitions: Mapping[str, object]) -> int:
    return [*_named(body), *_named([*definitions.values()])].count(name)


def _inlined(schema: object, single: Mapping[str, Any]) -> Any:
    """The schema with each of these definitions in the place of its name."""
    if isinstance(schema, Mapping):
        name = _name(schema)
        if name is not None and name in single:
            own = {key: value for key, value in schema.items() if key != "$ref"}
            return _joined(_inlined(single[name], single), own)
        inner = {key: _inlined(each, single) for key, each in schema.items()}
        return _nullable(inner)
    if isinstance(schema, list):
        return [_inlined(each, single) for each in schema]
    return schema


def _joined(definition: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A definition where it is used; what the place says of it comes before what it says of itself."""
    words = " ".join(each["description"] for each in (own, definition) if "description" in each)
    return {**definition, **own, **({"description": words} if words else {})}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """`anyOf` of one schema with a type, and null, as that schema with two types."""
    union = schema.get("anyOf")
    if union is None or len(union) != 2 or union[1] != {"type": "null"} or "type" not in union[0]:
        return schema
    inner, own = union[0], {key: value for key, value in schema.items() if key != "anyOf"}
    joined = _joined(inner, own)
    choices = {"enum": [*inner["enum"], None]} if "enum" in inner else {}
    return {**joined, "type": [inner["type"], "null"], **choices}
