"""What an upgrade may come from, and that only the stated bytes are used."""

import asyncio
import json
import os
import ssl
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.harness import needs_root
from tests.wheels import digest
from tests.wheels import make_small_wheel as make_wheel

from sandkeeper.errors import Forbidden, NotFound, SandkeeperError, Unavailable
from sandkeeper.upgrade import download as upgrade_download
from sandkeeper.upgrade.fetch import Fetched, Fetcher
from sandkeeper.upgrade.source import default_base, parse_allow, pick

SUM = "a" * 64
NAME = "sandkeeper-2.0-py3-none-any.whl"


def fetch(
    allow: str, folder: Path, version: str = "latest", base: str = "", sha256: str = ""
) -> Fetched:
    """Fetch what a request would, into `folder`."""
    allowed, faults = parse_allow([allow])
    assert faults == []
    source = pick(allowed, version, base or default_base(allowed))
    folder.mkdir(exist_ok=True)
    return asyncio.run(
        Fetcher(folder, lambda _place: None, lambda _size: None).fetch(source, sha256)
    )


@pytest.mark.parametrize(
    "entry",
    [
        "ftp://host/wheels/",
        "http://host/wheels/",
        "index:http://127.0.0.1:9/simple",
        f"index:http://127.0.0.1:9/simple#sha256={SUM}",
        "https://user:secret@host/wheels/",
        "https://host/wheels/?token=secret",
        "https://host/wheels",
        "https://host/wheels/../",
        "https://host/wheels/#sha256=12",
        "relative/*.whl",
        "/opt/../tmp/*.whl",
    ],
)
def test_an_entry_that_is_not_clear_is_ignored_and_said(entry: str) -> None:
    good, faults = parse_allow([entry])

    assert (good, len(faults)) == ([], 1)
    assert "secret" not in faults[0]


@pytest.mark.parametrize(
    ("allow", "base"),
    [
        ("/opt/wheels/*.whl", f"/opt/wheels/sub/{NAME}"),
        ("/opt/wheels/*.whl", f"/opt/wheels/../{NAME}"),
        ("/opt/wheels/*.whl", f"file:///tmp/{NAME}"),
        ("/opt/wheels/*.whl", "/opt"),
        ("https://host/wheels/", f"https://host/wheels/x/{NAME}"),
        ("https://host/wheels/", f"https://host/wheels/%2e%2e/{NAME}"),
        ("https://host/wheels/", f"https://host/wheels/..%2f{NAME}"),
        ("https://host/wheels/", f"https://host@evil/wheels/{NAME}"),
        ("https://host/wheels/", f"https://host.evil/wheels/{NAME}"),
        ("https://host/wheels/", f"http://host/wheels/{NAME}"),
        ("https://host/wheels/", f"https://host/wheels/{NAME}?x=.whl"),
        ("https://host/wheels/", "https://host/wheels/evil.py"),
        ("index:https://host/simple", "https://host/simple/../evil"),
        ("index:https://host/simple", "https://evil/simple"),
        (f"https://host/{NAME}", f"https://host/other/{NAME}"),
    ],
)
def test_nothing_but_what_the_list_says_is_permitted(allow: str, base: str) -> None:
    allowed, faults = parse_allow([allow])
    assert faults == []

    with pytest.raises(Forbidden, match="permits no upgrade"):
        pick(allowed, "2.0", base)


def test_without_a_list_nothing_is_permitted() -> None:
    with pytest.raises(Forbidden, match="SANDKEEPER_UPGRADE_ALLOW"):
        pick([], "latest", "https://host/simple")


@pytest.mark.parametrize("version", ["../x", "a b", "1/2", "", "-x", "x" * 80, "2.0\n"])
def test_a_version_is_a_word(version: str) -> None:
    with pytest.raises(Forbidden, match="not a version"):
        pick(parse_allow(["https://host/wheels/"])[0], version, "https://host/wheels/")


# Files


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    make_wheel(folder, "1.9")
    make_wheel(folder, "2.0")
    make_wheel(folder, "2.1rc1")
    return folder


def test_a_folder_gives_its_latest_release_or_the_version_asked_for(
    wheels: Path, tmp_path: Path
) -> None:
    allow = f"{wheels}/*.whl"
    (wheels / "other-9.9-py3-none-any.whl").write_bytes(b"")

    assert fetch(allow, tmp_path / "in", sha256=digest(wheels / NAME)).version == "2.0"
    old = wheels / "sandkeeper-1.9-py3-none-any.whl"
    assert fetch(allow, tmp_path / "in", "v1.9", sha256=digest(old)).version == "1.9"
    with pytest.raises(NotFound):
        fetch(allow, tmp_path / "in", "3.0", sha256=SUM)


def test_a_checksum_must_be_stated_and_every_stated_one_must_fit(
    wheels: Path, tmp_path: Path
) -> None:
    wheel, note = wheels / NAME, wheels / f"{NAME}.sha256"

    with pytest.raises(Forbidden, match="no SHA-256"):
        fetch(f"{wheel}", tmp_path / "in")
    with pytest.raises(Forbidden, match=f"not {SUM}"):
        fetch(f"{wheel}", tmp_path / "in", sha256=SUM)
    with pytest.raises(Forbidden, match=f"not {SUM}"):
        fetch(f"{wheel}#sha256={SUM}", tmp_path / "in", sha256=digest(wheel))
    note.write_text(f"{SUM} *{NAME}\n")
    with pytest.raises(Forbidden, match=f"not {SUM}"):
        fetch(f"{wheel}", tmp_path / "in", sha256=digest(wheel))
    note.write_text("nothing")
    with pytest.raises(Forbidden, match="holds no checksum"):
        fetch(f"{wheel}", tmp_path / "in", sha256=digest(wheel))
    note.write_text(digest(wheel).upper())
    assert fetch(f"{wheel}#sha256={digest(wheel)}", tmp_path / "in").sha256 == digest(wheel)


@needs_root
@pytest.mark.parametrize(
    "how", ["link", "owner", "group", "others", "folder", "folder owner", "note"]
)
def test_a_file_that_others_could_have_put_there_is_refused(
    wheels: Path, tmp_path: Path, how: str
) -> None:
    wheel = wheels / NAME
    stated = digest(wheel)
    if how == "link":
        wheel.rename(tmp_path / NAME)
        wheel.symlink_to(tmp_path / NAME)
    elif how == "owner":
        os.chown(wheel, 12345, 0)
    elif how == "group":
        os.chown(wheel, 0, 12345)
        wheel.chmod(0o664)
    elif how == "others":
        wheel.chmod(0o666)
    elif how == "folder":
        wheels.chmod(0o777)
    elif how == "folder owner":
        os.chown(wheels, 12345, 0)
    else:
        (wheels / f"{NAME}.sha256").write_text(stated)
        os.chown(wheels / f"{NAME}.sha256", 12345, 0)

    with pytest.raises(Forbidden):
        fetch(f"{wheels}/*.whl", tmp_path / "in", base=str(wheel), sha256=stated)


def test_a_linked_folder_does_not_lead_out_of_the_list(wheels: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(wheels)
    allow = f"{tmp_path}/linked/*.whl"

    with pytest.raises(Forbidden, match="in truth"):
        fetch(allow, tmp_path / "in", sha256=digest(wheels / NAME))


@pytest.mark.parametrize("what", ["no zip", "another project", "another version"])
def test_a_file_that_is_no_wheel_of_ours_is_refused(tmp_path: Path, what: str) -> None:
    wheel = tmp_path / "wheels" / NAME
    if what == "no zip":
        wheel.parent.mkdir()
        wheel.write_bytes(b"MZ")
    elif what == "another project":
        make_wheel(wheel.parent, "2.0", name="other")
    else:
        make_wheel(wheel.parent, "2.2").rename(wheel)

    with pytest.raises(Forbidden, match=r"wheel|version"):
        fetch(str(wheel), tmp_path / "in", sha256=digest(wheel))


METADATA = "sandkeeper-2.1.dist-info/METADATA"
HEAD = "Metadata-Version: 2.1\nName: sandkeeper\nVersion: 2.1\n"


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({METADATA: HEAD + "\n" + "x" * (2 << 20)}, "metadata is too large"),
        ({METADATA: HEAD, "sandkeeper/x.py": bytes(513 << 20)}, "unpacks to more"),
        ({METADATA: HEAD + "Requires-Dist: @@ !!\n"}, "no wheel|not a wheel"),
        ({}, "not a wheel"),
    ],
)
def test_a_wheel_that_would_burst_or_confuse_is_refused_before_it_is_unpacked(
    tmp_path: Path, files: dict[str, str | bytes], text: str
) -> None:
    wheel = tmp_path / "wheels/sandkeeper-2.1-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in files.items():
            archive.writestr(name, data)

    with pytest.raises(Forbidden, match=text):
        fetch(str(wheel), tmp_path / "in", sha256=digest(wheel))


@pytest.mark.parametrize("offset", [6, 8], ids=["encrypted", "packed by an unknown method"])
def test_a_wheel_that_cannot_be_read_is_refused(tmp_path: Path, offset: int) -> None:
    wheel = tmp_path / "wheels/sandkeeper-2.1-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(METADATA, HEAD)
    data = bytearray(wheel.read_bytes())
    data[offset] = data[data.index(b"PK\1\2") + offset + 2] = 77
    wheel.write_bytes(data)

    with pytest.raises(Forbidden, match="not a wheel"):
        fetch(str(wheel), tmp_path / "in", sha256=digest(wheel))


# Indexes and URLs


class Host:
    """An https server of `pages`: path → (status, headers, body)."""

    def __init__(self, folder: Path) -> None:
        key, self.certificate = folder / "key.pem", folder / "cert.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-keyout", key, "-out", self.certificate, "-days", "2",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
            check=True, capture_output=True,
        )  # fmt: skip
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[str] = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.asked.append(self.path)
                status, headers, body = host.pages.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://localhost:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def index(self, wheel: Path, *, html: bool = False, **fields: object) -> None:
        """Serve a wheel and a project's page that lists it."""
        self.pages[f"/files/{wheel.name}"] = (200, {}, wheel.read_bytes())
        if html:
            page = f'<a href="../../files/{wheel.name}#sha256={digest(wheel)}">{wheel.name}</a>'
            self.pages["/simple/sandkeeper/"] = (200, {"Content-Type": "text/html"}, page.encode())
            return
        file = {"filename": wheel.name, "url": f"{self.url}/files/{wheel.name}",
                "hashes": {"sha256": digest(wheel)}, **fields}  # fmt: skip
        kind = {"Content-Type": "application/vnd.pypi.simple.v1+json"}
        self.pages["/simple/sandkeeper/"] = (200, kind, json.dumps({"files": [file]}).encode())


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    made = Host(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.certificate))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield made
    made.close()


@pytest.mark.parametrize("html", [False, True])
def test_an_index_vouches_for_its_files_by_their_checksum(
    host: Host, wheels: Path, tmp_path: Path, html: bool
) -> None:
    host.index(wheels / NAME, html=html)
    allow = f"index:{host.url}/simple"

    assert fetch(allow, tmp_path / "in").version == "2.0"
    with pytest.raises(Forbidden, match=f"not {SUM}"):
        fetch(allow, tmp_path / "in", sha256=SUM)
    host.pages[f"/files/{NAME}"] = (200, {}, b"something else")
    with pytest.raises(Forbidden, match="its SHA-256 is"):
        fetch(allow, tmp_path / "in")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"hashes": {}}, "no SHA-256"),
        ({"requires-python": ">=4"}, "no package"),
        ({"yanked": "broken"}, "no package"),
        ({"url": f"http://localhost/{NAME}"}, "no https"),
    ],
)
def test_what_an_index_does_not_offer_is_not_taken(
    host: Host, wheels: Path, tmp_path: Path, fields: dict[str, object], why: str
) -> None:
    host.index(wheels / NAME, **fields)

    with pytest.raises(SandkeeperError, match=why):
        fetch(f"index:{host.url}/simple", tmp_path / "in")


def test_a_url_is_taken_with_the_checksum_beside_it_and_no_redirect_leads_elsewhere(
    host: Host, wheels: Path, tmp_path: Path
) -> None:
    wheel = wheels / NAME
    host.pages[f"/wheels/{NAME}"] = (200, {}, wheel.read_bytes())
    host.pages[f"/wheels/{NAME}.sha256"] = (200, {}, digest(wheel).encode())

    got = fetch(f"{host.url}/wheels/", tmp_path / "in", "2.0")
    assert got.sha256 == digest(wheel)
    host.pages[f"/other/{NAME}"] = host.pages[f"/wheels/{NAME}"]
    host.pages[f"/wheels/{NAME}"] = (302, {"Location": f"/other/{NAME}"}, b"")
    with pytest.raises(Forbidden, match="redirects to"):
        fetch(f"{host.url}/wheels/", tmp_path / "in", "2.0", sha256=digest(wheel))
    pinned = f"{host.url}/wheels/{NAME}#sha256={digest(wheel)}"
    assert fetch(pinned, tmp_path / "in", "2.0").version == "2.0"


def test_faults_of_the_network_are_tried_again_and_a_404_is_not(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrade_download, "PAUSE_SECONDS", 0.001)
    allow = f"index:{host.url}/simple"
    host.pages["/simple/sandkeeper/"] = (503, {"Retry-After": "0"}, b"")

    with pytest.raises(Unavailable, match="answers 503, 4 times"):
        fetch(allow, tmp_path / "in")
    assert len(host.asked) == 4
    del host.pages["/simple/sandkeeper/"]
    with pytest.raises(NotFound, match="answers 404"):
        fetch(allow, tmp_path / "in")
    assert len(host.asked) == 5
