"""What one server leaves to the next that takes its place by exec: a document in a memfd.

The kernel keeps descriptors over execve(2), so sockets go on by their numbers; everything else
stands here as JSON. A memfd (memfd_create(2)) has no name that anybody could plant something at.

The document is read by another version than the one that wrote it. Fields are only ever added, and
`FORMAT` changes when an older reader must refuse.
"""

import os
from contextlib import suppress

import msgspec

__all__ = ["FORMAT", "Handover", "HeldConnection", "NotAHandover"]

FORMAT = 1
MAX_BYTES = 64 << 20


class NotAHandover(Exception):
    """The descriptor holds no document that this version understands."""


class HeldConnection(msgspec.Struct, omit_defaults=True):
    """A client's connection: its descriptor, and a request that is still to be answered.

    `request` is a request head (RFC 9112) of a request without a body; empty when the client has
    not asked anything.
    """

    fd: int
    request: bytes = b""


class Handover(msgspec.Struct, omit_defaults=True):
    """The document; descriptors are -1 where there is none.

    `listener` is the first listening socket, `listeners` all of them, which the first versions did
    not know; `listening` is what there is.
    `variables` is the environment as it was when the first server read its settings, which decides
    for all that follow: what was written to `.env` since is not obeyed. `count` is how many
    upgrades took place before. `held` is how often the scale file was raised, `carried` the
    variables that an environment reload may take away again, `nofile` the limit of open files for
    children. `failed` tells why an earlier server had to be taken back. `trial` marks a server that
    only shows that it works: it has a copy of the state and touches nothing else.
    """

    format: int = FORMAT
    listener: int = -1
    verdict: int = -1
    connections: list[HeldConnection] = []
    variables: dict[str, str] = {}
    host: str = ""
    port: int = 8080
    command: str = ""
    user: str = ""
    held: int = 0
    carried: list[str] = []
    nofile: int = 0
    count: int = 0
    failed: str = ""
    trial: bool = False
    listeners: list[int] = []

    @property
    def listening(self) -> list[int]:
        """The descriptors of the listening sockets; the first versions handed over one."""
        return self.listeners or ([self.listener] if self.listener >= 0 else [])

    def write(self) -> int:
        """Return a descriptor of the document that lives on over exec; raises OSError."""
        fd = os.memfd_create("sandkeeper-handover", os.MFD_CLOEXEC)
        os.fchmod(fd, 0o600)  # tokens are in it, and /proc/<pid>/fd goes by the file's own mode
        data = msgspec.json.encode(self)
        try:
            while data:
                data = data[os.write(fd, data) :]
            os.set_inheritable(fd, True)
        except BaseException:
            os.close(fd)
            raise
        return fd

    @classmethod
    def read(cls, fd: int) -> "Handover":
        """Read a document and keep its descriptors from children; raises NotAHandover."""
        try:
            made = msgspec.json.decode(os.pread(fd, MAX_BYTES, 0), type=cls)
        except (OSError, msgspec.MsgspecError) as error:
            raise NotAHandover(f"descriptor {fd}: {error}") from None
        if made.format != FORMAT:
            raise NotAHandover(f"format {made.format} is not {FORMAT}")
        made.connections = [held for held in made.connections if _keep(held.fd)]
        made.listener = made.listener if _keep(made.listener) else -1
        made.listeners = [fd for fd in made.listeners if _keep(fd)]
        made.verdict = made.verdict if _keep(made.verdict) else -1
        return made


def _keep(fd: int) -> bool:
    """Say whether a descriptor is open; from here on children do not inherit it."""
    with suppress(OSError, OverflowError):
        os.set_inheritable(fd, False)
        return True
    return False
