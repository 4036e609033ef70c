"""Messages of Jupyter's protocol: how they are signed, packed and read.

https://jupyter-client.readthedocs.io/en/stable/messaging.html; `jupyter_client.session` packs and
checks them.
"""

import json
import re
from typing import Any

import msgspec
from jupyter_client.session import Session

__all__ = ["Message", "Wire", "clean_text"]

_SURROGATES = re.compile("[\ud800-\udfff]")


def clean_text(text: str) -> str:
    """Return text that UTF-8 can carry: what is half of a character becomes U+FFFD."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


class Message(msgspec.Struct):
    """What was said: its kind, what it answers (a message's id), and its content, not yet read."""

    kind: str
    parent: str
    raw: bytes

    def content(self) -> dict[str, Any]:
        """Read the content; empty where it is none."""
        try:
            found = msgspec.json.decode(self.raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            found = _mended(json.loads(self.raw.decode("utf-8", "replace")))
        return found if isinstance(found, dict) else {}


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [_mended(one) for one in value]
    if isinstance(value, dict):
        return {clean_text(key): _mended(one) for key, one in value.items()}
    return value


class Wire:
    """Packs and reads messages with the key of one kernel."""

    def __init__(self, key: str) -> None:
        self._session = Session(key=key.encode(), username="sandkeeper")

    def pack(self, kind: str, content: dict[str, Any], identity: str = "") -> tuple[str, list[Any]]:
        """Return the id and the frames of a message; `identity` is the id if it is given."""
        message = self._session.msg(kind, content)
        if identity:
            message["header"]["msg_id"] = message["msg_id"] = identity
        return str(message["header"]["msg_id"]), list(self._session.serialize(message))

    def read(self, frames: list[bytes]) -> Message:
        """Return what frames say; raises ValueError for a wrong signature, and other errors."""
        _, rest = self._session.feed_identities(frames)
        found = self._session.deserialize(rest, content=False)
        parent = found["parent_header"]
        return Message(
            str(found["header"]["msg_type"]),
            str(parent.get("msg_id", "")) if isinstance(parent, dict) else "",
            bytes(found["content"]),
        )
