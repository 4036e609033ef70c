"""The listening sockets, and what the log says of who can reach them."""

import errno
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress

from sandkeeper import __version__
from sandkeeper.linux.addresses import is_loopback
from sandkeeper.log.lines import Log
from sandkeeper.network.newcomers import let_in
from sandkeeper.settings import LOCALHOST, Settings

__all__ = ["is_wanted", "listen", "tell_reach"]

BACKLOG = 2048
LOOPBACK = ("127.0.0.1", "::1")
ANY = frozenset({"0.0.0.0", "::"})
ATTEMPTS = 16
ABSENT = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}
"""What bind(2) and socket(2) say where a family, or its loopback address, does not exist."""


def listen(
    host: str,
    port: int,
    inherited: Sequence[int] = (),
    *,
    besides: Sequence[int] = (),
    given: Sequence[socket.socket] = (),
) -> list[socket.socket]:
    """Open the listening sockets, on the ports `besides` as well, or take up inherited ones.

    `localhost` is both loopback addresses, as far as the machine has them, on one port, also when
    `port` is 0; `::` serves IPv4 as well. `given` are some that listen already and are wanted
    (`is_wanted`): they are not opened again. Raises OSError.
    """
    if inherited:
        return [socket.socket(fileno=fd) for fd in inherited]
    ready = {_name(one): one for one in given}
    with ExitStack() as undo:
        opened = [undo.enter_context(one) for one in _listen(host, port, ready)]
        for other in besides:
            opened += [undo.enter_context(one) for one in _listen(host, other, ready)]
        undo.pop_all()
    return opened


def is_wanted(sock: socket.socket, host: str, ports: Sequence[int]) -> bool:
    """Say whether `listen` would open this very socket, did it not listen already."""
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    where, port = _name(sock)
    only = sock.family == socket.AF_INET6 and sock.getsockopt(
        socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
    )
    hosts = LOOPBACK if host == LOCALHOST else (host,)
    return port in ports and where in hosts and bool(only) == (":" in host and host != "::")


def _name(sock: socket.socket) -> tuple[str, int]:
    host, port = sock.getsockname()[:2]
    return host, port


def _listen(
    host: str, port: int, ready: Mapping[tuple[str, int], socket.socket]
) -> list[socket.socket]:
    if host != LOCALHOST:
        return [_open(host, port, ready)]
    for _ in range(ATTEMPTS if port == 0 else 1):
        with suppress(_TakenBeside):
            return _open_loopback(port, ready)
    raise OSError(errno.EADDRINUSE, "no port is free on both loopback addresses")


class _TakenBeside(Exception):
    """The port that the kernel chose for one address is taken on the other."""


def _open_loopback(
    port: int, ready: Mapping[tuple[str, int], socket.socket]
) -> list[socket.socket]:
    opened: list[socket.socket] = []
    absent = OSError(errno.EADDRNOTAVAIL, "this machine has no loopback address")
    with ExitStack() as undo:
        for address in LOOPBACK:
            chosen = opened[0].getsockname()[1] if opened else port
            try:
                opened.append(undo.enter_context(_open(address, chosen, ready)))
            except OSError as error:
                if error.errno == errno.EADDRINUSE and chosen != port:
                    raise _TakenBeside from error
                if error.errno not in ABSENT:
                    raise
                absent = error
        undo.pop_all()
    if not opened:
        raise absent
    return opened


def _open(host: str, port: int, ready: Mapping[tuple[str, int], socket.socket]) -> socket.socket:
    if found := ready.get((host, port)):
        let_in(found)  # the server before may have kept newcomers out
        return found
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server(
        (host, port), family=family, backlog=BACKLOG, dualstack_ipv6=host == "::"
    )


def _tell_pages(log: Log, settings: Settings, base: str) -> None:
    pages = [f"{base}/console"]
    if settings.terminal.enabled:
        pages.append(f"{base}/terminal (a shell)")
    pages.append(f"{base}/swagger (the API)")
    log.info(f"pages for people: {', '.join(pages)}; tools for agents (MCP): {base}/mcp")


def tell_reach(log: Log, settings: Settings, listeners: Sequence[socket.socket]) -> None:
    """Log where the server listens and who can reach it so."""
    names = [listener.getsockname()[:2] for listener in listeners]
    urls = [f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            for host, port in names]  # fmt: skip
    state = settings.state_dir
    log.info(f"sandkeeper {__version__} listens on {' and '.join(urls)}, state in {state}")
    near = all(is_loopback(host) for host, _ in names)
    if names:
        home = "http://localhost" if near or names[0][0] in ANY else urls[0].rpartition(":")[0]
        _tell_pages(log, settings, f"{home}:{names[0][1]}")
    if settings.token:
        whom = "this machine" if near else "everywhere this address can be reached from"
        log.info(f"who asks needs the token, and may ask from {whom}")
    elif near:
        log.info("no token is set: every user of this machine may use the API, nobody else")
    else:
        why = f" (it listens everywhere because {settings.sandbox})" if settings.sandbox else ""
        log.warning(
            f"no token is set, so whoever reaches this address owns the machine{why}; "
            "SANDKEEPER_TOKEN asks for one, SANDKEEPER_HOST=localhost keeps others away"
        )
    if "*" in settings.edge.origins:
        log.warning(
            "SANDKEEPER_CORS_ORIGINS=*: every page in a browser that reaches this address may use "
            "the API; this is for a gateway that asks who it is"
        )
    elif "*" in settings.terminal.origins:
        log.warning("SANDKEEPER_TERMINAL_ORIGINS=*: every page may open terminals")
    elif "*" in settings.edge.hosts and not settings.token:
        log.warning("any Host is answered: a page may have its own name lead here (DNS rebinding)")
