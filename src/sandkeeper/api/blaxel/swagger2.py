"""OpenAPI 3.1 to Swagger 2.0, as far as our own description goes.

The older form knows no unions, no null and one body per operation: a union becomes "anything",
a type or null the type with `x-nullable`, the first content of several the one that is told.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["to_swagger2"]

Document = dict[str, Any]
UNIONS = ("anyOf", "oneOf")
SCHEMA_WORDS = frozenset(
    {
        *("type", "format", "enum", "minimum", "maximum", "minLength", "maxLength", "pattern"),
        *("items", "default"),
    }
)
"""What of a schema may stand in a parameter that is no body."""


def to_swagger2(document: Document, place: Document) -> Document:
    """Translate; `place` has host, basePath and schemes."""
    return {
        "swagger": "2.0",
        "info": document["info"],
        **place,
        "securityDefinitions": {
            "BearerAuth": {"type": "apiKey", "name": "Authorization", "in": "header"}
        },
        "security": document["security"],
        "paths": {path: _item(item) for path, item in document["paths"].items()},
        "definitions": {
            name: _schema(schema) for name, schema in document["components"]["schemas"].items()
        },
    }


def _item(item: Document) -> Document:
    return {
        key: [_parameter(one) for one in value] if key == "parameters" else _operation(value)
        for key, value in item.items()
    }


def _operation(operation: Document) -> Document:
    made = {
        key: value
        for key, value in operation.items()
        if key in ("operationId", "summary", "description", "tags")
    }
    parameters = [_parameter(one) for one in operation.get("parameters", [])]
    if body := operation.get("requestBody"):
        made["consumes"] = list(body["content"])
        parameters += _body(body)
    if parameters:
        made["parameters"] = parameters
    made["responses"] = {code: _response(one) for code, one in operation["responses"].items()}
    kinds = [kind for one in operation["responses"].values() for kind in one.get("content", {})]
    if kinds:
        made["produces"] = list(dict.fromkeys(kinds))
    return made


def _parameter(parameter: Document) -> Document:
    schema = _schema(parameter.get("schema", {}))
    flat = {key: value for key, value in schema.items() if key in SCHEMA_WORDS}
    rest = {key: value for key, value in parameter.items() if key != "schema"}
    return {**rest, "type": "string", **flat}


def _body(body: Document) -> list[Document]:
    kind, content = next(iter(body["content"].items()))
    schema = _schema(content.get("schema", {}))
    if kind != "multipart/form-data":
        required = bool(body.get("required"))
        return [{"name": "body", "in": "body", "required": required, "schema": schema}]
    return [
        {"name": name, "in": "formData", "type": "file" if _is_binary(part) else "string"}
        for name, part in schema.get("properties", {}).items()
    ]


def _is_binary(schema: Mapping[str, Any]) -> bool:
    return schema.get("format") == "binary"


def _response(response: Document) -> Document:
    made: Document = {"description": response["description"]}
    if headers := response.get("headers"):
        made["headers"] = {name: _header(one) for name, one in headers.items()}
    for content in response.get("content", {}).values():
        return {**made, "schema": _schema(content.get("schema", {}))}
    return made


def _header(header: Document) -> Document:
    made: Document = {"type": _schema(header.get("schema", {})).get("type", "string")}
    if text := header.get("description"):
        made["description"] = text
    return made


def _schema(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_schema(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _schema(value) for key, value in schema.items() if key not in UNIONS}
    if isinstance(made.get("type"), list):
        kinds = [kind for kind in made.pop("type") if kind != "null"]
        made["type"], made["x-nullable"] = kinds[0], True
    if isinstance(reference := made.get("$ref"), str):
        made["$ref"] = reference.replace("#/components/schemas/", "#/definitions/")
    _union(schema, made)
    return made


def _union(schema: Document, made: Document) -> None:
    """A union of one thing and null is that thing; any other union says nothing."""
    options = [one for key in UNIONS for one in schema.get(key, []) if one != {"type": "null"}]
    if len(options) == 1:
        made |= {**_schema(options[0]), "x-nullable": True}
