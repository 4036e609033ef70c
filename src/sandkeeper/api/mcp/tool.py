"""A tool: its name, its closed schemas, and what it does."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import msgspec

from sandkeeper.api.edge.respond import utf8
from sandkeeper.api.edge.rights import Need, Standing
from sandkeeper.errors import BadInput
from sandkeeper.log.access import Caller

__all__ = [
    "Arguments",
    "Asker",
    "BadArguments",
    "NoArguments",
    "Tool",
    "apart",
    "closed_schema",
    "text_of",
]

T = TypeVar("T")

INTEGERS = range(-(1 << 63), 1 << 63)


class BadArguments(BadInput):
    """The arguments are not what a tool takes: told in the words of the protocol's SDK alone."""


class Arguments(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The arguments of a tool; unknown ones are an error. Fields with defaults may be null."""


class NoArguments(Arguments):
    """Nothing."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks: for audit lines, and what the request may do."""

    caller: Caller
    standing: Standing


@dataclass(frozen=True)
class Tool:
    """One tool; `need` is the right it asks for, like that of a route.

    `call` takes the arguments and who asks, and returns a struct whose JSON is the result; it
    raises `sandkeeper.errors`, told to the caller behind `prefix`. A tool whose `enabled` says no
    is neither listed nor called; it is asked each time. `blocks` are content of a result beside
    its JSON: pictures.
    """

    name: str
    description: str
    arguments: type[msgspec.Struct]
    result: type[msgspec.Struct]
    call: Callable[[Any, Caller], Awaitable[msgspec.Struct]]
    prefix: str = ""
    enabled: Callable[[], bool] = lambda: True
    need: Need = field(kw_only=True)
    blocks: Callable[[msgspec.Struct], list[dict[str, str]]] = lambda _: []

    @cached_property
    def listing(self) -> dict[str, Any]:
        """The entry in `tools/list`."""
        return {
            "name": self.name,
            "description": self.description,
            "inputSchema": closed_schema(self.arguments),
            "outputSchema": closed_schema(self.result),
        }

    def parse(self, arguments: Any) -> Any:
        """Return the arguments as their struct; raises BadArguments, never another error."""
        try:
            given = {} if arguments is None else arguments
            _check(given)
            return _converted(_without_nulls(given, self.arguments), self.arguments)
        except (msgspec.ValidationError, BadInput) as error:
            raise BadArguments(f'validating "arguments": {error}') from None


def _converted(given: Any, model: type[msgspec.Struct]) -> Any:
    """Make the struct; a number or a flag may come as its text, as some clients send them.

    Raises ValidationError, of what was given as it is, and BadInput.
    """
    try:
        return msgspec.convert(given, model)
    except msgspec.ValidationError as error:
        try:
            made = msgspec.convert(given, model, strict=False)
        except msgspec.ValidationError:
            raise error from None
    _check(msgspec.to_builtins(made))
    return made


def _check(value: Any, depth: int = 0) -> None:
    """Refuse what no argument can be: numbers beyond 64 bits, text with NUL or half characters."""
    if depth > 32:
        raise BadInput("nested too deeply")
    if isinstance(value, int) and value not in INTEGERS:
        raise BadInput("a number does not fit 64 bits")
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadInput("text with half a surrogate pair") from None
    if isinstance(value, dict):
        for key, item in value.items():
            _check(key, depth + 1)
            _check(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)


def _without_nulls(given: Any, model: type[msgspec.Struct]) -> Any:
    """Leave out null for optional fields: it means the default."""
    if not isinstance(given, dict):
        return given
    optional = {
        item.encode_name
        for item in msgspec.structs.fields(model)
        if not item.required and item.name != "env"
    }
    return {k: v for k, v in given.items() if v is not None or k not in optional}


def closed_schema(model: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the JSON schema of a struct: in one piece, closed, null allowed where it is optional.

    `env` is the one optional field that the contract does not let be null.
    """
    (schema,), parts = msgspec.json.schema_components([model])
    return _inlined(schema, parts, nullable=issubclass(model, Arguments))


def _inlined(schema: dict[str, Any], parts: dict[str, Any], *, nullable: bool) -> dict[str, Any]:
    if "$ref" in schema:
        part = parts[schema["$ref"].rpartition("/")[2]]
        # A class's words are for readers of the code, a field's for whoever calls.
        plain = {key: value for key, value in part.items() if key != "description"}
        whole = _inlined(plain, parts, nullable=nullable)
        return whole | {key: schema[key] for key in schema.keys() & {"description"}}
    made = {key: value for key, value in schema.items() if key not in {"title", "$defs"}}
    if "anyOf" in made:
        kinds = [_inlined(part, parts, nullable=nullable) for part in made.pop("anyOf")]
        made |= _one_of(kinds)
    if isinstance(made.get("items"), dict):
        made["items"] = _inlined(made["items"], parts, nullable=nullable)
    if "properties" not in made:
        return made
    required = made.get("required", [])
    properties = {}
    for name, part in made["properties"].items():
        inner = _inlined(part, parts, nullable=nullable)
        if nullable and name not in required and name != "env":
            inner = _or_null(inner)
        properties[name] = inner
    return {
        **made,
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _one_of(kinds: list[dict[str, Any]]) -> dict[str, Any]:
    """Write `X or null` in the short way that older clients understand."""
    others = [kind for kind in kinds if kind != {"type": "null"}]
    if len(others) == 1:
        return _or_null(others[0]) if len(others) < len(kinds) else others[0]
    return {"anyOf": kinds}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    kind = schema.get("type")
    if isinstance(kind, str):
        return {**schema, "type": [kind, "null"]}
    return schema


_apart = asyncio.Semaphore(1)


async def apart(encode: Callable[..., T], *values: Any) -> T:
    """Encode what is long in a thread, one at a time.

    Whoever encodes keeps the interpreter to himself for as long as it takes: several threads of
    them, one after the other, would let the event loop wait for all.
    """
    async with _apart:
        return await asyncio.to_thread(encode, *values)


def text_of(result: msgspec.Struct) -> str:
    """Return a result as compact JSON with sorted keys."""
    try:
        return msgspec.json.encode(result, order="sorted").decode()
    except UnicodeEncodeError:  # a file name that is not UTF-8
        readable = _readable(msgspec.to_builtins(result))
        return msgspec.json.encode(readable, order="sorted").decode()


def _readable(value: Any) -> Any:
    if isinstance(value, str):
        return utf8(value)
    if isinstance(value, list):
        return [_readable(item) for item in value]
    if isinstance(value, dict):
        return {_readable(key): _readable(item) for key, item in value.items()}
    return value
