"""Readings as plain JSON and back.

A section is a frozen dataclass whose fields are numbers, texts, booleans, tuples, mappings from
text, or further sections. `to_json` keeps every key, null included. `from_json` is strict about
what is there (a wrong type is a `ValueError` that names the field) and lenient about what is not: a
missing key takes its default, an unknown key is ignored, so that two versions understand each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from types import NoneType, UnionType
from typing import Self, TypeVar, get_args, get_origin, get_type_hints

_T = TypeVar("_T")

_Decode = Callable[[object], object]
_PLAIN = {bool: "a boolean", int: "an integer", float: "a number", str: "a text"}


class Section:
    """What every dataclass of readings can do."""

    __slots__ = ()

    def to_json(self) -> dict[str, object]:
        """Every field under its name, sections as objects, tuples as lists."""
        return {name: _encode(getattr(self, name)) for name in _decoders(type(self))}

    @classmethod
    def from_json(cls, data: object) -> Self:
        """The section that `to_json` gave; ValueError where `data` has another shape."""
        if not isinstance(data, Mapping):
            raise ValueError(f"{cls.__name__}: expected an object")
        values = {}
        for name, decode in _decoders(cls).items():
            if name in data:
                try:
                    values[name] = decode(data[name])
                except ValueError as error:
                    raise ValueError(f"{cls.__name__}.{name}: {error}") from None
        try:
            return cls(**values)
        except TypeError as error:  # a field without a default is missing
            raise ValueError(f"{cls.__name__}: {error}") from None


_KNOWN: dict[type[Section], Mapping[str, _Decode]] = {}
"""How to read each section back, worked out when it is first needed."""


def _encode(value: object) -> object:
    if isinstance(value, Section):
        return value.to_json()
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items()}
    return value


def _decoders(section: type[Section]) -> Mapping[str, _Decode]:
    known = _KNOWN.get(section)
    if known is None:
        assert is_dataclass(section)
        hints = get_type_hints(section)
        known = _KNOWN[section] = {field.name: _decoder(hints[field.name]) for field in fields(section)}
    return known


def _decoder(hint: object) -> _Decode:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType:
        (kind,) = (argument for argument in arguments if argument is not NoneType)
        decode = _decoder(kind)
        return lambda value: None if value is None else decode(value)
    if origin is tuple:
        item = _decoder(arguments[0])
        return lambda value: tuple(item(entry) for entry in _checked(value, list, "a list"))
    if origin is Mapping:
        entry = _decoder(arguments[1])
        return lambda value: {
            _plain(str, key): entry(inner) for key, inner in _checked(value, dict, "an object").items()
        }
    if isinstance(hint, type) and issubclass(hint, Section):
        return hint.from_json
    if isinstance(hint, type) and hint in _PLAIN:
        return lambda value: _plain(hint, value)
    raise TypeError(f"no JSON form for {hint}")


def _plain(kind: type, value: object) -> object:
    # JSON has one sort of number: a whole watt may come back as an integer. True is no number.
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"expected {_PLAIN[kind]}, got {type(value).__name__}")
    return value


def _checked(value: object, kind: type[_T], name: str) -> _T:
    if not isinstance(value, kind):
        raise ValueError(f"expected {name}, got {type(value).__name__}")
    return value
