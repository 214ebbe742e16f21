"""Arguments that fit a tool's JSON schema, for a model that plays a script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def example(schema: Mapping[str, Any], text: str) -> Any:
    """The plainest value that fits: text for strings, the least number, required properties only."""
    return _example(schema, text, schema.get("$defs", {}))


def _example(schema: Mapping[str, Any], text: str, defs: Mapping[str, Any]) -> Any:
    if "$ref" in schema:
        return _example(defs.get(str(schema["$ref"]).rpartition("/")[2], {}), text, defs)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for alternatives in ("anyOf", "oneOf", "allOf"):
        if schema.get(alternatives):
            return _example(schema[alternatives][0], text, defs)
    match schema.get("type", "object"):
        case "string":
            return text[: schema.get("maxLength", len(text))]
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return False
        case "array":
            return [_example(schema.get("items", {}), text, defs)] * int(schema.get("minItems", 0))
        case "null":
            return None
    properties = schema.get("properties", {})
    return {name: _example(properties[name], text, defs) for name in schema.get("required", ()) if name in properties}
