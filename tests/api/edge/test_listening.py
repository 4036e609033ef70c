"""Where the server listens, who is told so, and what is left of it after a change of version."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from tests.harness import Server, free_port, needs_root, until

from sandkeeper.api.edge.connections.listening import listen
from sandkeeper.upgrade.handover import Handover


def six() -> bool:
    """Say whether this machine has an IPv6 loopback address."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not six(), reason="this machine has no IPv6")


def addresses(host: str, port: int = 0) -> list[tuple[str, int]]:
    opened = listen(host, port)
    found = [one.getsockname()[:2] for one in opened]
    for one in opened:
        one.close()
    return found


@needs_ipv6
def test_localhost_is_both_loopback_addresses_on_one_port() -> None:
    (first, port), (second, same) = addresses("localhost")
    assert (first, second, same) == ("127.0.0.1", "::1", port)
    again = free_port()
    assert addresses("localhost", again) == [("127.0.0.1", again), ("::1", again)]


def test_an_address_is_that_one_alone() -> None:
    ((host, _),) = addresses("127.0.0.1")
    assert host == "127.0.0.1"


@needs_ipv6
def test_any_free_port_is_free_on_both_addresses() -> None:
    held = [socket.create_server(("::1", 0), family=socket.AF_INET6) for _ in range(50)]
    taken = {one.getsockname()[1] for one in held}
    try:
        for _ in range(50):
            (_, port), (_, same) = addresses("localhost")
            assert port == same
            assert port not in taken
    finally:
        for one in held:
            one.close()


@needs_ipv6
def test_a_port_that_is_taken_on_either_address_is_refused() -> None:
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as other,
        pytest.raises(OSError, match="in use"),
    ):
        listen("localhost", other.getsockname()[1])


LISTEN = """
from sandkeeper.api.edge.connections.listening import listen
print([one.getsockname()[0] for one in listen("localhost", 0)])
"""


@needs_root
@needs_ipv6
@pytest.mark.parametrize(
    ("change", "left"),
    [
        ("true", ["127.0.0.1", "::1"]),
        ("echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6", ["127.0.0.1"]),
        ("ip address del 127.0.0.1/8 dev lo", ["::1"]),
    ],
)
def test_a_loopback_address_that_is_missing_is_left_out(change: str, left: list[str]) -> None:
    inside = f'ip link set lo up && {change} && exec "$0" -c "$1"'
    command = ["unshare", "--net", "sh", "-c", inside, sys.executable, LISTEN]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{left}\n"


def test_inherited_sockets_are_taken_up_whatever_was_asked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as first:
        (again,) = listen("localhost", 1, [os.dup(first.fileno())])
        with again:
            assert again.getsockname() == first.getsockname()


def test_a_document_of_an_older_version_names_one_socket() -> None:
    assert Handover(listener=7).listening == [7]
    assert Handover(listener=7, listeners=[7, 8]).listening == [7, 8]
    assert Handover().listening == []


Start = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start servers on any free port; returns it, and the log's lines of where and to whom."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*options: str, **env: str) -> tuple[int, list[str]]:
        log = tmp_path / f"log{len(running)}"
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        state = str(tmp_path / f"state{len(running)}")
        own = {"SANDKEEPER_STATE_DIR": state, "SANDKEEPER_LOG": str(log), "WORKDIR": str(tmp_path)}
        command = [sys.executable, "-m", "sandkeeper", "--port", "0", *options]
        running.append(subprocess.Popen(command, env={**keep, **own, **env}, cwd=tmp_path))

        def lines() -> list[str]:
            said = log.read_text().splitlines() if log.exists() else []
            told = [one for one in said if "listens on" in one or "token" in one]
            return told if len(told) > 1 else []

        said = until(lines)
        return int(re.findall(r":(\d+)(?= and|, state)", said[0])[0]), said

    yield start  # type: ignore[misc]
    for one in running:
        one.terminate()
        one.wait(60)
    for place in tmp_path.glob("state*/keeper.sock"):
        place.unlink()


def asked(port: int, host: str) -> int:
    url = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
    return httpx.get(url, trust_env=False).status_code


@needs_ipv6
def test_on_loopback_both_addresses_answer_and_no_other_does(start: Start) -> None:
    port, said = start("--host", "localhost")

    assert (asked(port, "127.0.0.1"), asked(port, "::1"), asked(port, "localhost")) == (200,) * 3
    with pytest.raises(httpx.ConnectError):
        asked(port, "127.0.0.2")
    assert f"listens on http://127.0.0.1:{port} and http://[::1]:{port}, state in" in said[0]
    assert "no token is set: every user of this machine may use the API, nobody else" in said[1]


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"BL_CLOUD": "true"}, "whoever reaches this address owns the machine (it listens"),
        ({"SANDKEEPER_HOST": "0.0.0.0"}, "whoever reaches this address owns the machine; "),
        ({"SANDKEEPER_TOKEN": "s3cret"}, "who asks needs the token, and may ask from everywhere"),
    ],
)
def test_what_is_reachable_from_elsewhere_says_so(
    start: Start, env: dict[str, str], words: str
) -> None:
    port, said = start(**env)

    assert f"listens on http://0.0.0.0:{port}, state in" in said[0]
    assert words in said[1]
    assert ('"level":"warning"' in said[1]) is ("SANDKEEPER_TOKEN" not in env)
    assert "s3cret" not in "".join(said)


def test_pages_of_all_origins_are_said_aloud(make_server) -> None:
    own: Server = make_server(env={"SANDKEEPER_CORS_ORIGINS": "*"})
    until(lambda: "SANDKEEPER_CORS_ORIGINS=*: every page" in own.log_path.read_text())
