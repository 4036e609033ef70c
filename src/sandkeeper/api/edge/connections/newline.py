"""A newline behind what a person at a shell asked for, so that the prompt begins on its own line.

The contract's bodies end without one, and programs get them so. A person is told by the client.
"""

from starlette.types import Message, Scope, Send

from sandkeeper.api.edge.connections.fields import first_fields

__all__ = ["SHELL_CLIENTS", "ending_line"]

SHELL_CLIENTS = (b"curl/", b"Wget/", b"HTTPie/")
SAID = b"application/json; charset=utf-8"
FILES = frozenset({b"content-disposition", b"content-encoding", b"content-range", b"last-modified"})
"""Fields of answers that are files: not a byte of those is ours."""

AT_ONCE = 64 << 10


def ending_line(scope: Scope, send: Send, *, bare: str) -> Send:
    """Return a `send` that ends JSON and refusals with a newline, if a person asks.

    An answer for which the key `bare` of the scope is set stays as it is.
    """
    agent = first_fields(scope).get(b"user-agent", b"")
    if not agent.startswith(SHELL_CLIENTS) or scope["method"] == "HEAD":
        return send
    wanted = False

    async def ending(message: Message) -> None:
        nonlocal wanted
        if message["type"] == "http.response.start":
            wanted = not scope.get(bare) and _is_said(message)
            if wanted:
                message = {**message, "headers": [_longer(*field) for field in message["headers"]]}
        elif wanted and not message.get("more_body", False):
            body = message.get("body", b"")
            if len(body) > AT_ONCE:
                await send({**message, "more_body": True})
                body = b""
            message = {**message, "body": body + b"\n"}
        await send(message)

    return ending


def _is_said(start: Message) -> bool:
    """Say whether an answer is one of ours in words: JSON, or the text of a refusal."""
    fields = {name.lower(): value for name, value in start["headers"]}
    if not FILES.isdisjoint(fields):
        return False
    kind: bytes = fields.get(b"content-type", b"")
    status: int = start["status"]
    return kind == SAID or (kind.startswith(b"text/plain") and status >= 400)


def _longer(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    return (name, b"%d" % (int(value) + 1)) if name.lower() == b"content-length" else (name, value)
