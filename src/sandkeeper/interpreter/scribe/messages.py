"""Messages of Jupyter's protocol: how they are signed, packed and read.

https://jupyter-client.readthedocs.io/en/stable/messaging.html; `jupyter_client.session` packs and
signs them.
"""

import hmac
import json
import re
from typing import Any

import msgspec
from jupyter_client.session import Session

__all__ = ["Message", "Packer", "clean_text", "execute_request"]

_SURROGATES = re.compile("[\ud800-\udfff]")


def clean_text(text: str) -> str:
    """Return text that UTF-8 can carry: what is half of a character becomes U+FFFD."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def execute_request(code: str, *, silent: bool, store_history: bool = False) -> dict[str, Any]:
    """Return the content of a request to run code: never asking for input."""
    return {
        "code": code,
        "silent": silent,
        "store_history": store_history,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": False,
    }


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


class _Header(msgspec.Struct):
    """What is used of a header; a parent that is none is empty."""

    msg_id: str = ""
    msg_type: str = ""


class Packer:
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
        """Return what frames say; raises ValueError for those that the kernel has not signed.

        Only what is needed is read of the headers: their dates take longer than all the rest.
        """
        _, rest = self._session.feed_identities(frames)
        signature, header, parent, _metadata, content = rest[:5]
        if not hmac.compare_digest(signature, self._session.sign(rest[1:5])):
            raise ValueError("the signature of a message is wrong")
        said = msgspec.json.decode(header, type=_Header)
        return Message(said.msg_type, msgspec.json.decode(parent, type=_Header).msg_id, content)
