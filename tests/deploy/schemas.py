"""Reads YAML and holds it against Kubernetes' own schemas; runs in the Python of `tools.schemas_python`.

A JSON object a line on stdin, `{"text": YAML, "versions": [...]}`, is answered with one on stdout:
`{"documents": [...], "errors": [...], "unknown": [...]}`. `unknown` names kinds that have no schema in a
version, as `apiVersion kind version`.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
from typing import Any

# Packages of another Python than the one that checks the types of this file.
yaml: Any = importlib.import_module("yaml")
utils: Any = importlib.import_module("kubernetes_validate.utils")

# The schemas are 100 MB of files, each read for every object otherwise.
utils.schema_contents = functools.lru_cache(maxsize=None)(utils.schema_contents)


@functools.cache
def verdict(text: str, version: str) -> tuple[str | None, str | None]:
    """An error, and a kind without schema, of an object in canonical JSON."""
    document = json.loads(text)
    kind = f"{document['apiVersion']} {document['kind']}"
    try:
        utils.validate(document, version, strict=True)
    except utils.ValidationError as error:
        where = ".".join(map(str, error.path))
        return f"{version}: {kind} {document['metadata']['name']}: {where}: {error.message}", None
    except utils.SchemaNotFoundError:
        return None, f"{kind} {version}"
    return None, None


def _mapping(loader: Any, node: Any) -> Any:
    keys = [loader.construct_object(key) for key, _ in node.value]
    twice = {str(key) for key in keys if keys.count(key) > 1}
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"twice: {', '.join(twice)}", node.start_mark)
    return loader.construct_mapping(node, deep=True)


StrictLoader: Any = type("StrictLoader", (yaml.SafeLoader,), {})
"""Refuses a mapping that has a key twice, which Kubernetes would take the last of."""
StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def main() -> None:
    """Answer until stdin ends."""
    for line in sys.stdin:
        asked = json.loads(line)
        errors: list[str] = []
        unknown: list[str] = []
        documents = [each for each in yaml.load_all(asked["text"], Loader=StrictLoader) if each]
        for document in documents:
            for version in asked["versions"]:
                error, missing = verdict(json.dumps(document, sort_keys=True), version)
                errors += [error] if error else []
                unknown += [missing] if missing else []
        answer = {"documents": documents, "errors": errors, "unknown": unknown}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
