"""The egress proxy and the merged certificates, as programs in the sandbox meet them."""

import asyncio
import base64
import json
import os
import resource
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness import Server, free_port, until

from sandkeeper.egress.ca import BadCertificates, extra_certificates
from sandkeeper.egress.head import BadHead, parse_request, parse_response
from sandkeeper.egress.service import Egress
from sandkeeper.egress.token import Template, upstream_of
from sandkeeper.linux.identity import Identity
from sandkeeper.network.relay import POOLED_PIPES
from sandkeeper.settings import EgressSettings, Environment
from sandkeeper.settings.variables import Variables as Settable


class Upstream:
    """A real proxy that asks for a token: CONNECT leads to an echo, plain requests to `reply`."""

    def __init__(self, *, family: int = socket.AF_INET, tls: ssl.SSLContext | None = None) -> None:
        self.accepts = {"token-1"}
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        self.connect_reply = b"HTTP/1.1 200 OK\r\n\r\n"
        self.tls = tls
        self.taken = threading.Event()
        self.sock = socket.socket(family)
        self.sock.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        self.sock.listen(1024)
        self.port = self.sock.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.sock.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            if self.tls:
                sock = self.tls.wrap_socket(sock, server_side=True)
            with closing(sock):
                self._talk(sock)
        except OSError:
            pass

    def _talk(self, sock: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = sock.recv(65536)
            if not chunk:
                return
            data += chunk
        head, _, rest = data.partition(b"\r\n\r\n")
        text = head.decode()
        self.heads.append(text)
        wanted = [base64.b64encode(f"user:{t}".encode()).decode() for t in self.accepts]
        if not any(f"Proxy-Authorization: Basic {item}" in text for item in wanted):
            sock.sendall(b"HTTP/1.1 407 Go away\r\nContent-Length: 4\r\n\r\nnope")
            return
        if text.startswith("CONNECT"):
            sock.sendall(self.connect_reply)
            if b" 200 " in self.connect_reply:
                self._echo(sock, rest)
            return
        if b"breaks off" in self.reply:
            self._break_off(sock, self.reply)
            return
        lower = text.lower()
        if "content-length:" in lower:
            size = int(lower.split("content-length:")[1].split()[0])
            while len(rest) < size:
                rest += sock.recv(65536)
        if "transfer-encoding: chunked" in lower:
            while not rest.endswith(b"0\r\n\r\n"):
                chunk = sock.recv(65536)
                if not chunk:
                    return
                rest += chunk
        self.bodies.append(rest)
        sock.sendall(self.reply)

    def _echo(self, sock: socket.socket, rest: bytes) -> None:
        """Send everything back only after the other side has ended: a half-close or nothing."""
        received = rest = rest or sock.recv(1 << 20)
        if rest.startswith(b"break"):
            self._break_off(sock, b"half of it")
            return
        if rest.startswith(b"live") or self.tls:
            sock.sendall(rest)
            while rest and (chunk := sock.recv(65536)):
                sock.sendall(chunk)
            return
        while rest and (chunk := sock.recv(1 << 20)):
            received += chunk
        sock.sendall(b"echo:" + received)

    def _break_off(self, sock: socket.socket, data: bytes) -> None:
        """Send, and reset the connection once that was `taken`."""
        sock.sendall(data)
        assert self.taken.wait(30)
        self.taken.clear()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        self.sock.close()


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    yield made
    made.close()


@pytest.fixture(scope="module")
def token(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text("token-1\n")
    return path


def proxy_env(upstream: Upstream, token: Path, scheme: str = "http") -> dict[str, str]:
    url = f"{scheme}://user:{{{{file({token})}}}}@localhost:{upstream.port}"
    return {
        "HTTP_PROXY": url,
        "https_proxy": url,
        "NO_PROXY": "internal.example",
        "SANDBOX_LOCAL_PROXY_PORT": str(free_port()),
    }


@pytest.fixture(scope="module")
def proxied(tmp_path_factory, upstream: Upstream, token: Path) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("proxied"), env=proxy_env(upstream, token)) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(request: pytest.FixtureRequest) -> None:
    if "upstream" in request.fixturenames:
        made: Upstream = request.getfixturevalue("upstream")
        made.accepts = {"token-1"}
        made.connect_reply = b"HTTP/1.1 200 OK\r\n\r\n"
        made.reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        made.heads.clear()
        made.bodies.clear()
        request.getfixturevalue("token").write_text("token-1\n")


def port_of(server: Server) -> int:
    return int(server.env["SANDBOX_LOCAL_PROXY_PORT"])


def dial(server: Server, host: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection((host, port_of(server)), timeout=30)


def exchange(server: Server, data: bytes, *, host: str = "127.0.0.1", end: bool = False) -> bytes:
    """Send bytes, optionally end our side, and read until the proxy ends."""
    with dial(server, host) as sock:
        sock.sendall(data)
        if end:
            sock.shutdown(socket.SHUT_WR)
        return sock.makefile("rb").read()


CONNECT = b"CONNECT far.example:443 HTTP/1.1\r\nHost: far.example:443\r\n\r\n"
GET = b"GET http://far.example/x?y HTTP/1.1\r\nHost: far.example\r\n\r\n"


class Variables(Environment):
    """An environment of its own, so that a test does not change the test runner's."""

    def __init__(self, values: dict[str, str]) -> None:
        self.values = dict(values)

    def snapshot(self) -> dict[str, str]:
        return dict(self.values)

    def get(self, name: str, default: str = "") -> str:
        return self.values.get(name, default)

    def apply(self, values: Mapping[str, str], *, remove: tuple[str, ...] = ()) -> None:
        self.values.update(values)
        for name in remove:
            self.values.pop(name, None)


class Lines:
    """A log that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, level: str, message: str, **_fields: Any) -> None:
        self.lines.append(f"{level} {message}")

    def __getattr__(self, level: str) -> Any:
        return lambda message, **fields: self.write(level, message, **fields)


def egress_in(
    tmp_path: Path, values: dict[str, str], workload: Identity | None = None
) -> tuple[Egress, Variables, Lines]:
    environment, log = Variables(values), Lines()
    settings = EgressSettings.read(Settable(values), tmp_path)
    made = Egress(settings, environment, log, workload)  # type: ignore[arg-type]
    return made, environment, log


def test_children_get_the_loopback_proxy_and_a_reload_keeps_it(
    upstream: Upstream, token: Path, tmp_path: Path
) -> None:
    values = proxy_env(upstream, token)
    url = f"http://localhost:{values['SANDBOX_LOCAL_PROXY_PORT']}"

    async def run() -> None:
        egress, environment, log = egress_in(tmp_path, values)
        await egress.start()
        try:
            assert environment.get("HTTP_PROXY") == environment.get("https_proxy") == url
            assert environment.get("NO_PROXY") == "internal.example,localhost,127.0.0.1,::1"
            assert environment.get("no_proxy") == "localhost,127.0.0.1,::1"
            assert environment.get("HTTPS_PROXY") == ""
            environment.apply({"HTTP_PROXY": values["HTTP_PROXY"], "HTTPS_PROXY": "http://other"})
            await egress.reapply()
            assert environment.get("HTTP_PROXY") == url
            assert environment.get("HTTPS_PROXY") == "http://other"
            assert log.lines == []
        finally:
            await egress.stop()

    asyncio.run(run())


def test_a_process_sees_the_loopback_proxy_and_no_token(proxied: Server) -> None:
    seen = proxied.run("env")["stdout"]

    assert f"https_proxy=http://localhost:{port_of(proxied)}\n" in seen
    assert "NO_PROXY=internal.example,localhost,127.0.0.1,::1\n" in seen
    assert "token-1" not in seen
    assert "{{file" not in seen


def test_without_a_listener_the_token_goes_into_the_environment(
    upstream: Upstream, token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandkeeper.egress.service.BIND_TRIES", 0)

    async def run(taken: int) -> None:
        values = {**proxy_env(upstream, token), "SANDBOX_LOCAL_PROXY_PORT": str(taken)}
        egress, environment, log = egress_in(tmp_path, values)
        await egress.start()
        wanted = f"http://user:token-1@localhost:{upstream.port}"
        async with asyncio.timeout(60):
            while environment.get("HTTP_PROXY") != wanted:
                await asyncio.sleep(0.005)
        assert environment.get("https_proxy") == wanted
        assert "cannot listen" in log.lines[0]
        await egress.stop()

    with socket.create_server(("127.0.0.1", 0)) as busy:
        asyncio.run(run(busy.getsockname()[1]))


def test_a_workload_that_takes_the_port_is_not_given_the_token(
    upstream: Upstream, token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandkeeper.egress.service.BIND_TRIES", 0)
    workload = Identity(os.getuid() + 1, os.getgid() + 1, "workload", "/")

    async def run(taken: int) -> None:
        values = {**proxy_env(upstream, token), "SANDBOX_LOCAL_PROXY_PORT": str(taken)}
        egress, environment, log = egress_in(tmp_path, values, workload)
        await egress.start()
        assert egress.port not in {0, taken}
        assert environment.get("HTTP_PROXY") == f"http://localhost:{egress.port}"
        assert "cannot listen" in log.lines[0]
        await egress.stop()

    with socket.create_server(("127.0.0.1", 0)) as busy:
        asyncio.run(run(busy.getsockname()[1]))


def test_a_tunnel_carries_the_token_and_the_client_never_sees_it(
    proxied: Server, upstream: Upstream
) -> None:
    answer = exchange(proxied, CONNECT + b"hello", end=True)

    assert answer == b"HTTP/1.1 200 Connection established\r\n\r\necho:hello"
    assert upstream.heads[0].startswith("CONNECT far.example:443 HTTP/1.1\r\n")


def test_both_loopback_addresses_answer(proxied: Server) -> None:
    assert exchange(proxied, CONNECT, host="::1", end=True).endswith(b"echo:")


def test_a_client_that_ends_its_side_still_gets_a_large_reply(proxied: Server) -> None:
    body = os.urandom(8 << 20)

    with dial(proxied) as sock:
        sock.sendall(CONNECT)
        reader = sock.makefile("rb")
        assert reader.readline().startswith(b"HTTP/1.1 200")
        assert reader.readline() == b"\r\n"
        sock.sendall(body)
        sock.shutdown(socket.SHUT_WR)
        assert reader.read() == b"echo:" + body


def test_bytes_flow_both_ways_while_both_sides_are_open(proxied: Server) -> None:
    with dial(proxied) as sock:
        sock.sendall(CONNECT + b"live1")
        reader = sock.makefile("rb")
        reader.readline(), reader.readline()
        assert reader.read(5) == b"live1"
        for _ in range(50):
            sock.sendall(b"ping")
            assert reader.read(4) == b"ping"


def test_a_rotated_token_is_used_after_a_407_and_open_tunnels_live_on(
    proxied: Server, upstream: Upstream, token: Path
) -> None:
    with dial(proxied) as old:
        old.sendall(CONNECT + b"live")
        reader = old.makefile("rb")
        reader.readline(), reader.readline()
        upstream.accepts = {"token-2"}
        token.write_text("token-2")

        assert exchange(proxied, CONNECT, end=True).endswith(b"echo:")
        assert exchange(proxied, GET).endswith(b"ok")
        assert reader.read(4) == b"live"
        old.sendall(b"still")
        assert reader.read(5) == b"still"


def test_an_empty_or_missing_token_file_keeps_the_last_token(
    proxied: Server, upstream: Upstream, token: Path
) -> None:
    assert exchange(proxied, GET).endswith(b"ok")
    token.write_text("")
    upstream.accepts = {"other"}
    assert b" 407 " in exchange(proxied, GET)
    token.unlink()
    upstream.accepts = {"token-1"}
    assert exchange(proxied, GET).endswith(b"ok")


def test_a_refused_connect_keeps_the_upstreams_status_and_text(
    proxied: Server, upstream: Upstream
) -> None:
    upstream.connect_reply = b"HTTP/1.1 403 No\r\nContent-Length: 6\r\nX-A: b\r\n\r\npolicy"

    answer = exchange(proxied, CONNECT)

    assert answer.startswith(b"HTTP/1.1 403 No\r\n")
    assert b"X-A: b\r\n" in answer
    assert answer.endswith(b"\r\n\r\npolicy")


def test_a_plain_request_loses_hop_by_hop_fields_both_ways(
    proxied: Server, upstream: Upstream
) -> None:
    upstream.reply = (
        b"HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    )
    request = GET[:-2] + (
        b"Proxy-Authorization: Basic mine\r\nProxy-Connection: keep-alive\r\nX-Kept: 1\r\n\r\n"
    )

    answer = exchange(proxied, request)

    sent = upstream.heads[0]
    assert sent.startswith("GET http://far.example/x?y HTTP/1.1\r\n")
    assert "X-Kept: 1" in sent
    assert "mine" not in sent
    assert "Proxy-Connection" not in sent
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b"2\r\nok\r\n0\r\n\r\n"
    assert b"Hop" not in head
    assert b"Keep-Alive" not in head
    assert b"Connection: close" in head


def test_a_body_is_passed_on_and_what_follows_it_is_not(
    proxied: Server, upstream: Upstream
) -> None:
    body = os.urandom(1 << 20)
    head = b"POST http://far.example/ HTTP/1.1\r\nHost: f\r\nContent-Length: %d\r\n\r\n" % len(body)

    assert exchange(proxied, head + body + b"GET http://smuggled/ HTTP/1.1\r\n\r\n").endswith(b"ok")
    assert upstream.bodies == [body]
    assert len(upstream.heads) == 1


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /relative HTTP/1.1\r\n\r\n", 400),
        (b"GET https://x/ HTTP/1.1\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET http://x/ HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"POST http://x/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (
            b"POST http://x/ HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (b"GET http://x/ HTTP/1.1\r\nA: " + b"a" * (70 << 10), 431),
    ],
)
def test_what_is_no_proxy_request_is_refused(
    proxied: Server, request_bytes: bytes, status: int
) -> None:
    with dial(proxied) as sock:
        sock.sendall(request_bytes)
        assert sock.recv(65536).startswith(b"HTTP/1.1 %d " % status)


def test_without_a_token_or_an_upstream_the_answer_is_a_named_502(make_server, tmp_path) -> None:
    gone = Upstream()
    gone.close()
    gone.port = free_port()  # which nobody else is given
    token = tmp_path / "none"
    own: Server = make_server(env=proxy_env(gone, token))

    answer = exchange(own, CONNECT)
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"sandbox proxy: the token file is missing or empty" in answer
    token.write_text("t")
    until(lambda: b"sandbox proxy: cannot reach the proxy" in exchange(own, CONNECT))


@pytest.fixture
def many_files() -> Iterator[None]:
    """Have as many descriptors here as may be: a user's usual 1,024 are few for both ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_five_hundred_tunnels_work_at_once_and_the_api_answers(proxied: Server) -> None:
    with ExitStack() as stack:
        socks = [stack.enter_context(dial(proxied)) for _ in range(500)]
        for number, sock in enumerate(socks):
            sock.sendall(CONNECT + b"live%03d" % number)
        for number, sock in enumerate(socks):
            with sock.makefile("rb") as reader:
                reader.readline(), reader.readline()
                assert reader.read(7) == b"live%03d" % number
        assert proxied.client.get("/health").status_code == 200
        for sock in socks:
            sock.sendall(b"again")
        for sock in socks:
            assert sock.recv(5, socket.MSG_WAITALL) == b"again"


def met_reset(server: Server, upstream: Upstream, asked: bytes) -> bytes:
    """Ask for what breaks off; returns what came of it before the reset."""
    with dial(server) as sock:
        sock.sendall(asked)
        came = b""
        while not came.endswith(b"half of it"):
            chunk = sock.recv(65536)
            assert chunk, came
            came += chunk
        upstream.taken.set()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        return came


def test_what_breaks_off_behind_the_proxy_is_no_end_here(
    proxied: Server, upstream: Upstream
) -> None:
    assert met_reset(proxied, upstream, CONNECT + b"break").endswith(b"\r\n\r\nhalf of it")
    upstream.reply = b"HTTP/1.1 200 OK\r\nX-It: breaks off\r\n\r\nhalf of it"
    assert met_reset(proxied, upstream, GET).endswith(b"\r\n\r\nhalf of it")
    head = GET.replace(b"GET", b"POST").removesuffix(b"\r\n")
    unfinished = head + b"Content-Length: 9\r\n\r\nhal"
    assert met_reset(proxied, upstream, unfinished).endswith(b"\r\n\r\nhalf of it")


def test_tunnels_that_end_in_any_way_leave_no_descriptor(proxied: Server) -> None:
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{proxied.pid}/fd"))

    exchange(proxied, CONNECT + b"warm", end=True)
    before = descriptors()
    socks = [dial(proxied) for _ in range(60)]
    for sock in socks:
        sock.sendall(CONNECT + b"live")
    assert all(sock.recv(12) == b"HTTP/1.1 200" for sock in socks)
    reset = struct.pack("ii", 1, 0)
    for number, sock in enumerate(socks):
        if number % 2:  # half of them are reset, half of them end in order
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        sock.close()

    until(lambda: descriptors() <= before + 2 * POOLED_PIPES)


def test_the_server_stops_with_tunnels_open(make_server, upstream: Upstream, token: Path) -> None:
    own: Server = make_server(env=proxy_env(upstream, token))
    with dial(own) as sock:
        sock.sendall(CONNECT + b"live")
        assert sock.recv(12) == b"HTTP/1.1 200"
        assert own.stop() in {0, -15}


def test_a_restart_without_the_directive_goes_on_with_what_was_saved(
    make_server, upstream: Upstream, token: Path
) -> None:
    own: Server = make_server(env=proxy_env(upstream, token))
    state = own.state / "egress.json"
    saved = json.loads(state.read_text())
    assert (saved["version"], saved["port"]) == (2, port_of(own))
    assert [item["name"] for item in saved["templates"]] == ["HTTP_PROXY", "https_proxy"]
    assert state.stat().st_mode & 0o777 == 0o600

    for name in ("HTTP_PROXY", "https_proxy"):
        own.env[name] = f"http://localhost:{port_of(own)}"
    own.restart()
    assert exchange(own, GET).endswith(b"ok")

    own.env["HTTP_PROXY"] = "http://another.example:1"
    own.restart()
    with pytest.raises(ConnectionRefusedError):
        dial(own)


@pytest.mark.parametrize("plant", ["writable", "link", "names", "junk"])
def test_a_planted_state_file_is_not_believed(
    make_server, upstream: Upstream, token: Path, tmp_path: Path, plant: str
) -> None:
    port = free_port()
    template = f"http://user:{{{{file({token})}}}}@localhost:{upstream.port}"
    name = "LD_PRELOAD" if plant == "names" else "HTTP_PROXY"
    state = {
        "version": 2,
        "savedAt": "",
        "port": port,
        "templates": [{"name": name, "template": template, "filePath": str(token)}],
    }
    file = tmp_path / "planted.json"
    file.write_text("junk" if plant == "junk" else json.dumps(state))
    file.chmod(0o666 if plant == "writable" else 0o600)
    if plant == "link":
        link = tmp_path / "link.json"
        link.symlink_to(file)
        file = link

    own: Server = make_server(env={"SANDBOX_PROXY_STATE_FILE": str(file)})

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    assert own.client.get("/health").status_code == 200


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> tuple[Path, Path]:
    """Return a self-signed certificate for localhost and its key."""
    folder = tmp_path_factory.mktemp("ca")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-keyout", str(key), "-out", str(cert), "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def test_an_https_proxy_is_spoken_to_in_tls_that_the_extra_certificates_vouch_for(
    make_server, token: Path, tmp_path: Path, authority: tuple[Path, Path]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority)
    secure = Upstream(tls=context)
    own: Server = make_server(
        env={
            **proxy_env(secure, token, "https"),
            "SANDBOX_EXTRA_CA_CERTS": authority[0].read_text(),
            "SANDBOX_MERGED_CA_PATH": str(tmp_path / "merged.crt"),
        }
    )

    assert exchange(own, GET).endswith(b"ok")
    assert met_reset(own, secure, CONNECT + b"break").endswith(b"half of it")
    with dial(own) as sock:
        sock.sendall(CONNECT + b"live")
        reader = sock.makefile("rb")
        reader.readline(), reader.readline()
        assert reader.read(4) == b"live"
        sock.sendall(b"x" * 100_000)
        assert reader.read(100_000) == b"x" * 100_000
    secure.close()


def test_certificates_are_merged_once_however_often_the_server_starts(
    make_server, tmp_path: Path, authority: tuple[Path, Path]
) -> None:
    base, merged = tmp_path / "base.crt", tmp_path / "out/merged.crt"
    base.write_text(Path("/etc/ssl/certs/ca-certificates.crt").read_text().rstrip("\n"))
    own: Server = make_server(
        env={
            "SSL_CERT_FILE": str(base),
            "SANDBOX_EXTRA_CA_CERTS": authority[0].read_text().replace("\n", "\\n"),
            "SANDBOX_MERGED_CA_PATH": str(merged),
        }
    )
    first = merged.read_text()
    own.env["SSL_CERT_FILE"] = str(merged)  # what a restart in place inherits
    own.restart()

    assert merged.read_text() == first
    assert first == base.read_text() + "\n" + authority[0].read_text()
    assert (tmp_path / "out/merged-extra.crt").read_text() == authority[0].read_text()
    assert merged.stat().st_mode & 0o777 == 0o644
    ssl.create_default_context(cafile=str(merged))


def test_certificates_are_named_by_the_path_of_their_file(
    make_server, tmp_path: Path, authority: tuple[Path, Path]
) -> None:
    merged = tmp_path / "merged.crt"
    own: Server = make_server(
        env={
            "SANDBOX_EXTRA_CA_CERTS": str(authority[0]),
            "SANDBOX_MERGED_CA_PATH": str(merged),
        }
    )
    names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
    told = own.run(f"echo ${' $'.join(names)}")["stdout"].split()

    assert told == [str(merged)] * 3 + [str(authority[0])]
    assert merged.read_text().endswith(authority[0].read_text())


def test_a_private_key_never_reaches_the_bundle(authority: tuple[Path, Path]) -> None:
    cert, key = (path.read_text() for path in authority)

    for text in (cert + key, key, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"):
        with pytest.raises(BadCertificates):
            extra_certificates(text)
    assert extra_certificates("comment\n" + cert + "junk") == cert


def test_templates_are_read_as_the_contract_has_them() -> None:
    def of(text: str) -> Any:
        template = Template.of("HTTP_PROXY", text)
        assert template is not None
        made = upstream_of(template)
        return made.host, made.port, made.tls, made.user

    assert of("http://u:{{file(/t)}}@proxy:8080") == ("proxy", 8080, False, "u")
    assert of("https://{{file(/t)}}@proxy") == ("proxy", 443, True, None)
    assert of("http://{{ file(/t) }}:x@proxy") == ("proxy", 80, False, None)
    assert of("http://u:{{file(/t)}}@[::1]:3128") == ("::1", 3128, False, "u")
    assert Template.of("LD_PRELOAD", "{{file(/t)}}") is None
    assert Template.of("HTTP_PROXY", "{{file(/a)}}{{file(/b)}}") is None
    assert Template.of("HTTP_PROXY", "{{file(relative)}}") is None
    for bad in ("http://{{file(/t)}}", "ftp://u:{{file(/t)}}@h", "http://u:p@h/{{file(/t)}}"):
        with pytest.raises(ValueError):
            of(bad)


def head_of(
    target: bytes, *fields: bytes, method: bytes = b"GET", version: bytes = b"1.1"
) -> bytes:
    line = b"%s %s HTTP/%s\r\n" % (method, target, version)
    return line + b"".join(field + b"\r\n" for field in (b"Host: h", *fields)) + b"\r\n"


SMUGGLING = {
    "line feed": head_of(b"http://a.b/", b"A: b\n\nGET http://internal/ HTTP/1.1\nX: y"),
    "line feed before a field": head_of(b"http://a.b/", b"A: b\nProxy-Authorization: z"),
    "line feeds alone": b"GET http://a.b/ HTTP/1.1\nHost: a.b\n\n",
    "line feed in the target": head_of(b"http://a.b/\nx"),
    "carriage return": head_of(b"http://a.b/", b"A: b\rProxy-Authorization: z"),
    "NUL": head_of(b"http://a.b/", b"A: b\0"),
    "vertical tab": head_of(b"http://a.b/", b"Transfer-Encoding: \x0bchunked"),
    "folded": head_of(b"http://a.b/", b"A: b", b" Proxy-Authorization: z"),
    "space before the colon": head_of(b"http://a.b/", b"Content-Length : 5"),
    "no name": head_of(b"http://a.b/", b": x"),
    "two lengths": head_of(b"http://a.b/", b"Content-Length: 1, 2"),
    "signed length": head_of(b"http://a.b/", b"Content-Length: +5"),
    "underscored length": head_of(b"http://a.b/", b"Content-Length: 1_0"),
    "huge length": head_of(b"http://a.b/", b"Content-Length: " + b"9" * 40),
    "both framings": head_of(b"http://a.b/", b"Content-Length: 1", b"Transfer-Encoding: chunked"),
    "odd coding": head_of(b"http://a.b/", b"Transfer-Encoding: xchunked"),
    "coding with a weight": head_of(b"http://a.b/", b"Transfer-Encoding: chunked;q=1"),
    "two codings": head_of(b"http://a.b/", b"Transfer-Encoding: gzip, chunked"),
    "coding twice": head_of(b"http://a.b/", b"Transfer-Encoding: chunked", b"Transfer-Encoding: x"),
    "chunks of HTTP/1.0": head_of(b"http://a.b/", b"Transfer-Encoding: chunked", version=b"1.0"),
    "length named away": head_of(
        b"http://a.b/", b"Connection: Content-Length", b"Content-Length: 9", method=b"POST"
    ),
    "host named away": head_of(b"http://a.b/", b"Connection: x, host"),
    "two hosts": head_of(b"http://a.b/", b"Host: c"),
    "user in the target": head_of(b"http://u:p@a.b/"),
    "backslash": head_of(b"http://a.b\\@c/"),
    "fragment": head_of(b"http://a.b/#c"),
    "no host": head_of(b"http:///x"),
    "another version": head_of(b"http://a.b/", version=b"2.0"),
    "CONNECT without a port": head_of(b"a.b", method=b"CONNECT"),
    "CONNECT to a URI": head_of(b"http://a.b:1/", method=b"CONNECT"),
    "CONNECT with a user": head_of(b"u@a.b:1", method=b"CONNECT"),
    "CONNECT with a body": head_of(b"a.b:1", b"Content-Length: 3", method=b"CONNECT"),
    "CONNECT in chunks": head_of(b"a.b:1", b"Transfer-Encoding: chunked", method=b"CONNECT"),
    "small connect": head_of(b"a.b:1", method=b"connect"),
}


@pytest.mark.parametrize("data", SMUGGLING.values(), ids=SMUGGLING.keys())
def test_what_can_be_read_in_two_ways_never_goes_beside_the_token(
    proxied: Server, upstream: Upstream, data: bytes
) -> None:
    with dial(proxied) as sock:
        sock.sendall(data)
        answer = sock.recv(65536)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert upstream.heads == []


@pytest.mark.parametrize("method", [b"TRACE", b"TRACK", b"trace"])
def test_a_method_that_shows_the_token_is_refused(
    proxied: Server, upstream: Upstream, method: bytes
) -> None:
    answer = exchange(proxied, head_of(b"http://a.b/", method=method))

    assert answer.startswith(b"HTTP/1.1 405 ")
    assert upstream.heads == []


def test_the_target_says_the_host_and_a_clients_word_to_proxies_stays_here(
    proxied: Server, upstream: Upstream
) -> None:
    own = [b"Proxy-Authorization: Basic z", b"proxy_authorization: z", b"Proxy-Other: kept"]
    own += [
        b"Connection: X-Hop",
        b"X-Hop: 1",
        b"TE: trailers",
        b"Upgrade: h2c",
        b"HTTP2-Settings: x",
    ]

    exchange(
        proxied, head_of(b"http://a.b:81/x?y", *own, b"Content-Length: 0", b"Content-Length: 0")
    )

    (sent,) = upstream.heads
    lines = sent.split("\r\n")
    assert lines[0] == "GET http://a.b:81/x?y HTTP/1.1"
    assert [one for one in lines if one.lower().startswith("host:")] == ["Host: a.b:81"]
    assert sum("authorization" in one.lower() for one in lines) == 1
    assert sum("content-length" in one.lower() for one in lines) == 1
    assert "Connection: close" in lines
    for gone in ("X-Hop", "TE:", "Upgrade", "HTTP2-Settings"):
        assert gone not in sent


def test_a_body_in_chunks_is_framed_anew_and_nothing_behind_it_goes_on(
    proxied: Server, upstream: Upstream
) -> None:
    head = head_of(b"http://a.b/", b"Transfer-Encoding: chunked", method=b"POST")
    body = b"3;x=y\r\nabc\r\n4\r\ndefg\r\n0\r\nProxy-Authorization: z\r\n\r\n"

    answer = exchange(proxied, head + body + head_of(b"http://internal/"))

    assert answer.endswith(b"ok")
    assert upstream.bodies == [b"7\r\nabcdefg\r\n0\r\n\r\n"]


@pytest.mark.parametrize("body", [b"zz\r\n", b"1\r\nab\r\n0\r\n\r\n", b"-1\r\n\r\n", b"5\r\nab"])
def test_chunks_that_are_none_end_the_exchange(
    proxied: Server, upstream: Upstream, body: bytes
) -> None:
    head = head_of(b"http://a.b/", b"Transfer-Encoding: chunked", method=b"POST")

    assert exchange(proxied, head + body, end=True).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 502 "))
    assert upstream.bodies == []


def test_a_way_to_the_proxy_that_leads_back_is_noticed(proxied: Server, upstream: Upstream) -> None:
    exchange(proxied, GET)
    (via,) = [line for line in upstream.heads[-1].split("\r\n") if line.startswith("Via: ")]

    for data in (head_of(b"http://a.b/", via.encode()), CONNECT[:-2] + via.encode() + b"\r\n\r\n"):
        assert exchange(proxied, data).startswith(b"HTTP/1.1 508 ")
    # The last words of a test before may still come here; what went round would say so twice.
    assert not [head for head in upstream.heads if head.count("Via: ") > 1]


NAMES = st.one_of(
    st.sampled_from(
        b"Connection Content-Length Transfer-Encoding Host Proxy-Authorization Via TE A X_Y".split()
    ),
    st.binary(min_size=1, max_size=6),
)
VALUES = st.one_of(
    st.sampled_from([b"", b"close", b"chunked", b"5", b"5, 5", b"host", b"websocket", b"Upgrade"]),
    st.binary(max_size=12),
    st.text("\r\n\t \0:ab", max_size=8).map(str.encode),
)
LINES = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\n ", b" \r\n"])


@given(
    st.sampled_from([b"GET", b"POST", b"CONNECT", b"TRACE", b"g\0", b""]),
    st.one_of(st.sampled_from([b"http://a.b/", b"a.b:1", b"/x", b"http://a\n/"]), st.binary()),
    st.lists(st.tuples(NAMES, VALUES, LINES), max_size=6),
)
def test_an_accepted_head_goes_on_with_one_meaning(
    method: bytes, target: bytes, fields: list[tuple[bytes, bytes, bytes]]
) -> None:
    data = method + b" " + target + b" HTTP/1.1\r\nHost: a\r\n"
    data += b"".join(name + b": " + value + end for name, value, end in fields) + b"\r\n"
    data = data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    try:
        request = parse_request(data)
    except BadHead:
        return
    ours = [(b"Proxy-Authorization", b"ours")]
    encoded = request.encode_connect(ours) if method == b"CONNECT" else request.encode(ours)

    head, _, rest = encoded.partition(b"\r\n\r\n")
    assert rest == b""
    first, *lines = head.split(b"\r\n")
    assert first == method + b" " + target + b" HTTP/1.1"
    pairs = [line.partition(b":") for line in lines]
    told = [(name.lower(), value.strip()) for name, _, value in pairs]
    assert not any(byte in head.replace(b"\r\n", b"") for byte in b"\r\n\0")
    assert [value for name, value in told if name == b"proxy-authorization"] == [b"ours"]
    assert [value for name, value in told if name == b"host"] == [request.authority]
    framed = [value for name, value in told if name in (b"content-length", b"transfer-encoding")]
    assert len(framed) <= 1
    assert framed == ([b"chunked"] if request.size is None else framed)
    assert {name for name, _ in told}.isdisjoint({b"te", b"trailer", b"keep-alive"})


@given(st.binary(max_size=200))
def test_any_bytes_are_a_head_or_refused(data: bytes) -> None:
    for parse in (
        lambda data: parse_request(data).encode([]),
        lambda data: parse_response(data).encode(),
    ):
        try:
            written = parse(data + b"\r\n\r\n")
        except BadHead:
            continue
        assert b"\r\n\r\n" not in written[:-4]
