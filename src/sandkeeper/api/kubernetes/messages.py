"""The messages of `process.v1`, made at run time in a pool of their own: nothing is generated.

Fields and numbers are those of sandboxd's `process.proto` (KEP-539.2). Importing this imports
protobuf (the extra `kubernetes`).
"""

from collections.abc import Iterable
from typing import Any

from google.protobuf import empty_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

__all__ = ["SERVICE", "message"]

PACKAGE = "process.v1"
SERVICE = "process.v1.ProcessService"
KINDS = {
    "string": FieldDescriptorProto.TYPE_STRING,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "int32": FieldDescriptorProto.TYPE_INT32,
    "uint32": FieldDescriptorProto.TYPE_UINT32,
}
EMPTY = "google.protobuf.Empty"

Field = tuple[str, str]
MESSAGES: dict[str, tuple[Field, ...]] = {
    "PTY": (("cols", "uint32"), ("rows", "uint32")),
    "ProcessConfig": (("command", "string*"), ("env_vars", "map"), ("cwd", "string")),
    "StartRequest": (("config", "ProcessConfig"), ("pty", "PTY")),
    "InitEvent": (("process_id", "int32"),),
    "ExitEvent": (("exit_code", "int32"),),
    "StartResponse": (
        *(("init", "InitEvent"), ("stdout", "bytes"), ("stderr", "bytes")),
        ("exit", "ExitEvent"),
    ),
    "ExecuteRequest": (("config", "ProcessConfig"),),
    "ExecuteResponse": (("exit_code", "int32"), ("stdout", "bytes"), ("stderr", "bytes")),
    "WriteStdinRequest": (("process_id", "int32"), ("input", "bytes"), ("eof", EMPTY)),
    "WriteStdinResponse": (),
    "SendSignalRequest": (("process_id", "int32"), ("signal", "int32")),
    "SendSignalResponse": (),
    "ResizeTTYRequest": (("process_id", "int32"), ("cols", "uint32"), ("rows", "uint32")),
    "ResizeTTYResponse": (),
}
"""Fields in the order of their numbers, which begin at 1. What `proto3` tells apart by a `oneof`
or an enumeration is the same on the wire without."""


def _add(made: DescriptorProto, fields: Iterable[Field]) -> None:
    for number, (name, kind) in enumerate(fields, 1):
        field = made.field.add(name=name, number=number)
        field.label = FieldDescriptorProto.LABEL_OPTIONAL
        if kind.endswith("*") or kind == "map":
            field.label = FieldDescriptorProto.LABEL_REPEATED
        if kind == "map":
            entry = made.nested_type.add(name="EnvVarsEntry")
            _add(entry, (("key", "string"), ("value", "string")))
            entry.options.map_entry = True
            kind = f"{PACKAGE}.{made.name}.EnvVarsEntry"
        elif kind in MESSAGES:
            kind = f"{PACKAGE}.{kind}"
        plain = KINDS.get(kind.removesuffix("*"))
        if plain is None:
            field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{kind}"
        else:
            field.type = plain


def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    pool.AddSerializedFile(empty_pb2.DESCRIPTOR.serialized_pb)
    file = FileDescriptorProto(name="sandkeeper/process.proto", package=PACKAGE, syntax="proto3")
    file.dependency.append(empty_pb2.DESCRIPTOR.name)
    for name, fields in MESSAGES.items():
        _add(file.message_type.add(name=name), fields)
    pool.Add(file)
    return pool


_known = _pool()
_classes: dict[str, Any] = {
    name: GetMessageClass(_known.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in MESSAGES
}


def message(name: str) -> Any:
    """Return the class of a message."""
    return _classes[name]
