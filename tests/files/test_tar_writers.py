"""Archives of every writer in every format: what is unpacked is what was packed."""

import base64
import gzip
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.harness import Server, debian

DEEP = "l" * 90 + "/" + "m" * 120 + "/" + "n" * 200
LOOK = 8000
"""How many bytes at either end of a file with holes are compared."""

GO = """
package main

import (
	"archive/tar"
	"os"
	"strings"
	"time"
)

func main() {
	formats := map[string]tar.Format{
		"ustar": tar.FormatUSTAR, "pax": tar.FormatPAX, "gnu": tar.FormatGNU,
	}
	format := formats[os.Args[1]]
	out := tar.NewWriter(os.Stdout)
	put := func(header tar.Header, data string) {
		header.Format, header.Size, header.Mode = format, int64(len(data)), 0o750
		header.ModTime = time.Unix(1600000000, 0)
		if err := out.WriteHeader(&header); err != nil {
			panic(err)
		}
		out.Write([]byte(data))
	}
	deep := strings.Repeat("d/", 30) + strings.Repeat("n", 90)
	if format != tar.FormatUSTAR {
		deep = strings.Repeat("deep/", 40) + strings.Repeat("ü", 90)
	}
	put(tar.Header{Name: "dir/", Typeflag: tar.TypeDir}, "")
	put(tar.Header{Name: "dir/plain", Typeflag: tar.TypeReg}, "plain")
	put(tar.Header{Name: "dir/link", Typeflag: tar.TypeSymlink, Linkname: "plain"}, "")
	put(tar.Header{Name: "dir/second", Typeflag: tar.TypeLink, Linkname: "dir/plain"}, "")
	put(tar.Header{Name: deep, Typeflag: tar.TypeReg}, "deep")
	out.Close()
}
"""

GO_MADE = {
    "ustar": (
        "H4sIAAAAAAACA+2VzQ7CIAyA+yi8Ae0A+zyLcCAuuGz6/uK8uN00gizrx6GEE83XHx8nDYXBDDtcYmYblzsZ7tjS"
        "6/0ZGJSDCtznWz/lr/wiyffkdoLP/sehj+mv/t3GP6ExoFD8F6e0e6H9/h9iurQ1/4nxBKqrUZwy//UcztfkW/Jv"
        "EAkU1VhOB/efivGJf7v2b02eADvf/15/far2fwijbEFBEITj8QDmu1OVABIAAA=="
    ),
    "pax": (
        "H4sIAAAAAAACA+2WUQ6CMAxA++0pdgNaxmj88DBESCQSJICJh/OPizkxMUiiX24y6VuyLvva8tpuedlG4Bi0sMEx"
        "WuZxXJPmmBN67N8DgzLggXPXZ609yjcuOb1cIOTWf1NlZf1T/2bmn1BrUCj+nePavbD8+q/K+ris/k+MKajYR3JK"
        "/4+6Yn+q8yX514gEinw8Tmv3XxRN5HZ65/3pP7XFPs0FjJkZQV1Cev8DRW9RNVl/2HlIBC/TcA1vbP6//j/3/+S1"
        "/2siY+T/78u//IIFQRDWxw0rMNOkABYAAA=="
    ),
    "gnu": (
        "H4sIAAAAAAACA+2WQQ6CMBBFe5Q5AWVoy2w9AJcgQgyRFAJ6O3dezEKMERMTF7ZSmdekbbpr3vR3qmaQwjOpg0w6"
        "r47Xdd6joow03s+JNAkwIgDn8VQOAF+55PPlIqFy/vu2bOxP/Zulf3QFoASk7N87vt0z63//bWOPq8p/xFznArIQ"
        "xcn5L8d639lqTf6nrQAM8Tlt3H8iE7krOnso/IXAG+8P/4bMoham/i/XAoqY/v9Y87+ue/kH0/US39iI/w/yXy/z"
        "XyGi4f4/lH/ughmGYbbHDUvyfD4AFgAA"
    ),
}
"""What the program above makes, compressed: for machines without Go."""


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    debian("libarchive-tools")


def plain_tree(folder: Path) -> None:
    """Make what every format can hold."""
    (folder / "dir/empty").mkdir(parents=True)
    (folder / "dir/plain").write_bytes(b"plain" * 1000)
    (folder / "dir/nothing").write_bytes(b"")
    (folder / "dir/link").symlink_to("plain")
    os.link(folder / "dir/plain", folder / "dir/second")
    (folder / "dir/plain").chmod(0o751)
    (folder / os.fsdecode(b"\xc3\xbcn\xc3\xaf")).write_text("unicode")
    os.utime(folder / "dir/plain", (1_600_000_000, 1_600_000_000))


def long_tree(folder: Path) -> None:
    """Make what needs more than the oldest headers."""
    plain_tree(folder)
    (folder / DEEP).parent.mkdir(parents=True)
    (folder / DEEP).write_text("deep")
    os.link(folder / DEEP, folder / ("r" * 150))
    (folder / "far").symlink_to("z" * 180)
    (folder / os.fsdecode(b"raw\xff\xfe")).write_text("no UTF-8")
    os.mkfifo(folder / "fifo")
    (folder / "later").write_text("in the year 2128")
    os.utime(folder / "later", (5e9, 5e9))


def with_holes(path: Path, size: int, spans: Mapping[int, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        for offset, data in spans.items():
            file.seek(offset)
            file.write(data)
        file.truncate(size)


def sparse_tree(folder: Path) -> None:
    long_tree(folder)
    data = b"x" * 5000
    mib = 1 << 20
    with_holes(folder / "one", 10 * mib, {1000: b"data"})
    with_holes(folder / "hole", 3 * mib, {})
    with_holes(folder / "end", mib, {mib - 5000: data})
    with_holes(folder / "start", mib, {0: data})
    with_holes(folder / "many", 20 * mib, {at * 65536: b"%d" % at * 200 for at in range(300)})
    with_holes(folder / "odd", 1_000_003, {0: data, 500_000: data})
    with_holes(folder / "large", 9 << 30, {0: data, (9 << 30) - 7000: data})
    with_holes(folder / "漢字/ünï holes", mib, {70_000: data})
    with_holes(folder / (DEEP + "-holes"), mib, {70_000: data})


def told(path: Path) -> Any:
    """Say what a path is: kind, content, mode, time, and whether it takes less than a MiB."""
    info = path.lstat()
    if path.is_symlink():
        return os.readlink(path)
    if not path.is_file():
        return info.st_mode >> 12
    with open(path, "rb") as file:
        start = file.read(LOOK)
        file.seek(max(0, info.st_size - LOOK))
        whole = path.read_bytes() if info.st_size < 64 << 20 else b""
        content = (info.st_size, start, file.read(), hash(whole))
    return (content, info.st_mode, int(info.st_mtime), info.st_nlink)


def look(folder: Path) -> dict[bytes, Any]:
    return {os.fsencode(path.relative_to(folder)): told(path) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[Path], None]], Path]:
    """Return a tree, made once."""
    trees: dict[str, Path] = {}

    def tree(make: Callable[[Path], None]) -> Path:
        name = make.__name__
        if name not in trees:
            trees[name] = tmp_path_factory.mktemp(name)
            make(trees[name])
        return trees[name]

    return tree


def unpacked(server: Server, archive: Path, target: Path) -> dict[bytes, Any]:
    with open(archive, "rb") as file:
        reply = server.client.put(f"/filesystem-archive/{target}", content=file)
    assert reply.status_code == 200, reply.text
    return look(target)


@pytest.mark.parametrize(
    ("tree", "command"),
    [
        *((plain_tree, ["tar", f"--format={one}"]) for one in ("v7", "ustar")),
        *((long_tree, ["tar", f"--format={one}"]) for one in ("oldgnu", "gnu", "pax")),
        *((sparse_tree, ["tar", "-S", f"--format={one}"]) for one in ("oldgnu", "gnu")),
        *(
            (sparse_tree, ["tar", "-S", "--format=pax", f"--sparse-version={one}"])
            for one in ("0.0", "0.1", "1.0")
        ),
        (sparse_tree, ["tar", "-S", "--format=gnu", "--label=a volume"]),
        (sparse_tree, ["tar", "-S", "--format=gnu", "--listed-incremental={snapshot}"]),
        (sparse_tree, ["tar", "-S", "--format=pax", "--listed-incremental={snapshot}"]),
        (sparse_tree, ["tar", "-S", "--format=pax", "--xattrs", "--acls"]),
        (long_tree, ["tar", "--format=gnu", "--gzip", "--numeric-owner", "--owner=9999999"]),
        (plain_tree, ["bsdtar", "--format=v7"]),
        (plain_tree, ["bsdtar", "--format=ustar"]),
        (long_tree, ["bsdtar", "--format=gnutar"]),
        (sparse_tree, ["bsdtar", "--format=pax"]),
        (sparse_tree, ["bsdtar", "--format=paxr"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value.__name__,
)
def test_what_a_command_packs_is_unpacked_whole_holes_as_holes(
    server: Server,
    tmp_path: Path,
    made: Callable[[Callable[[Path], None]], Path],
    tree: Callable[[Path], None],
    command: list[str],
) -> None:
    source = made(tree)
    program, *options = [one.format(snapshot=tmp_path / "snapshot") for one in command]
    target = tmp_path / "out"
    archive = ["-cf", str(tmp_path / "a.tar"), "-C", str(source), "."]
    subprocess.run([program, *options, *archive], check=True, stderr=subprocess.DEVNULL)

    assert unpacked(server, tmp_path / "a.tar", target) == look(source)
    holes = [path for path in target.rglob("*") if path.is_file() and path.stat().st_size > 1e6]
    assert (tree is sparse_tree) == bool(holes)
    assert all(path.stat().st_blocks * 512 < 2 << 20 for path in holes)


@pytest.mark.parametrize(
    ("tree", "layout"),
    [
        (plain_tree, tarfile.USTAR_FORMAT),
        (long_tree, tarfile.GNU_FORMAT),
        (long_tree, tarfile.PAX_FORMAT),
    ],
)
def test_what_python_packs_is_unpacked_whole(
    server: Server,
    tmp_path: Path,
    made: Callable[[Callable[[Path], None]], Path],
    tree: Callable[[Path], None],
    layout: int,
) -> None:
    source = made(tree)
    with tarfile.open(tmp_path / "a.tar", "w", format=layout) as archive:  # type: ignore[call-overload]
        archive.add(source, ".")

    assert unpacked(server, tmp_path / "a.tar", tmp_path / "out") == look(source)


def check_go(server: Server, archive: Path, target: Path, layout: str) -> None:
    found = unpacked(server, archive, target)
    deep = "d/" * 30 + "n" * 90 if layout == "ustar" else "deep/" * 40 + "ü" * 90

    assert (target / deep).read_text() == "deep"
    assert os.readlink(target / "dir/link") == "plain"
    assert (target / "dir/second").samefile(target / "dir/plain")
    assert found[b"dir/plain"][1:3] == (0o100750, 1_600_000_000)


@pytest.mark.parametrize("layout", GO_MADE)
def test_what_go_has_packed_is_unpacked_whole(server: Server, tmp_path: Path, layout: str) -> None:
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(base64.b64decode(GO_MADE[layout]))

    check_go(server, archive, tmp_path / "out", layout)


@pytest.mark.skipif(shutil.which("go") is None, reason="no Go here; what it makes is kept above")
def test_what_this_go_packs_is_unpacked_whole(server: Server, tmp_path: Path) -> None:
    (tmp_path / "main.go").write_text(GO)
    env = {**os.environ, "GO111MODULE": "off", "GOFLAGS": ""}
    build = ["go", "build", "-o", "pack", "main.go"]
    subprocess.run(build, cwd=tmp_path, env=env, check=True)
    for layout in GO_MADE:
        archive = tmp_path / f"{layout}.tar"
        archive.write_bytes(subprocess.check_output([tmp_path / "pack", layout]))
        check_go(server, archive, tmp_path / layout, layout)


def test_of_a_file_with_holes_a_stored_size_in_the_header_is_what_lies_in_the_archive(
    server: Server, tmp_path: Path
) -> None:
    """GNU tar writes it above 8 GiB; the next member begins behind it."""
    table = b"2\n0\n4\n1000000\n0\n".ljust(512, b"\0")
    member = tarfile.TarInfo("GNUSparseFile.0/holes")
    member.size = len(table) + 4
    member.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "holes",
        "GNU.sparse.realsize": "1000000",
        "size": str(member.size),
    }
    after = tarfile.TarInfo("after")
    after.size = 5
    archive = tmp_path / "a.tar"
    archive.write_bytes(
        member.tobuf(tarfile.PAX_FORMAT)
        + table
        + b"data".ljust(512, b"\0")
        + after.tobuf()
        + b"after".ljust(512, b"\0")
        + bytes(1024)
    )

    unpacked(server, archive, tmp_path / "out")
    assert (tmp_path / "out/holes").read_bytes() == b"data" + bytes(999_996)
    assert (tmp_path / "out/after").read_text() == "after"


def test_a_broken_gzip_is_refused(server: Server, tmp_path: Path) -> None:
    member = tarfile.TarInfo("file")
    member.size = 100_000
    packed = gzip.compress(member.tobuf() + os.urandom(100_352) + bytes(1024))

    for body in (packed[:5000], packed[:50_000] + b"\0" * 100 + packed[50_100:]):
        reply = server.client.put(f"/filesystem-archive/{tmp_path}/out", content=body)

        assert (reply.status_code, "no whole tar" in reply.text) == (400, True)


@pytest.fixture
def packed(server: Server, tmp_path: Path, made: Callable[[Callable[[Path], None]], Path]) -> Path:
    """The archive that the server makes of the tree with holes."""
    path = tmp_path / "ours.tar"
    with (
        server.client.stream("GET", f"/filesystem-archive/{made(sparse_tree)}") as reply,
        open(path, "wb") as file,
    ):
        for block in reply.iter_raw():
            file.write(block)
    return path


@pytest.mark.parametrize("reader", ["tar", "bsdtar", "python", "sandkeeper"])
def test_what_we_pack_has_holes_for_every_reader(
    server: Server,
    tmp_path: Path,
    packed: Path,
    made: Callable[[Callable[[Path], None]], Path],
    reader: str,
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    if reader == "sandkeeper":
        unpacked(server, packed, target)
    elif reader == "python":
        with tarfile.open(packed) as archive:
            archive.extractall(target)
    else:
        command = [reader, "-xpf", str(packed), "-C", str(target)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)

    assert packed.stat().st_size < 4 << 20
    assert look(target) == look(made(sparse_tree))
