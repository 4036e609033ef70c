"""What the bundle and the image are made with; `make bundle-test` tries them, for minutes."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from io import BytesIO
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PACKAGING = ROOT / "packaging"
CALLS = """
import errno, os, signal, sys, _kernelcalls as ours

def outcome(call, *args, **named):
    try:
        return call(*args, **named)
    except Exception as error:
        return type(error).__name__, getattr(error, "errno", None)

file = os.open(sys.argv[1], os.O_RDWR)
other = os.open(sys.argv[1] + ".copy", os.O_RDWR | os.O_CREAT)
buffers = [bytearray(4), bytearray(4)], [bytearray(4), bytearray(4)]
for args in ((file, 0), (file, 2), (file, 100), (999, 0)):
    seen = [outcome(one.preadv, args[0], b, args[1]) for one, b in zip((ours, os), buffers)]
    assert seen[0] == seen[1] and buffers[0] == buffers[1], (args, seen, buffers)
for call in (
    lambda one: outcome(one.preadv, file, [b"read-only"], 0),
    lambda one: outcome(one.preadv, file, 7, 0),
    lambda one: outcome(one.preadv, file, [bytearray(3)], 0, os.RWF_HIPRI),
    lambda one: outcome(one.pwritev, other, [b"ab", b"cde"], 1),
    lambda one: outcome(one.copy_file_range, file, other, 5),
    lambda one: outcome(one.copy_file_range, file, other, 5, offset_src=1, offset_dst=2),
    lambda one: outcome(one.copy_file_range, file, other, -5),
    lambda one: outcome(one.memfd_create, "nul\\0"),
    lambda one: outcome(one.pidfd_open, 0),
):
    assert call(ours) == call(os), (call(ours), call(os))
made = ours.memfd_create("a")
assert not os.get_inheritable(made) and "/memfd:a" in os.readlink(f"/proc/self/fd/{made}")
child = os.fork()
if child == 0:
    signal.pause()
pidfd = ours.pidfd_open(child)
assert not os.get_inheritable(pidfd)
ours.pidfd_send_signal(pidfd, 0)
ours.pidfd_send_signal(pidfd, signal.SIGKILL)
assert os.waitid(os.P_PIDFD, pidfd, os.WEXITED).si_status == signal.SIGKILL
assert outcome(ours.pidfd_send_signal, pidfd, 0) == ("ProcessLookupError", errno.ESRCH)
print("alike")
"""


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def archives() -> ModuleType:
    return loaded(PACKAGING / "bundle" / "archives.py")


def test_the_kernels_calls_of_the_bundle_are_those_of_the_standard_library(tmp_path: Path) -> None:
    include = sysconfig.get_path("include")
    module = tmp_path / "_kernelcalls.abi3.so"
    command = ["cc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", f"-I{include}"]
    subprocess.run([*command, "-o", module, PACKAGING / "bundle/kernelcalls.c"], check=True)
    (tmp_path / "file").write_bytes(b"0123456789")

    argv = [sys.executable, "-c", CALLS, str(tmp_path / "file")]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)

    assert (done.stdout, done.returncode) == ("alike\n", 0), done.stderr


def test_a_start_takes_its_modules_from_one_file(tmp_path: Path) -> None:
    """As the bundle lies: what was recorded is not looked for, and everything else is."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    package = tmp_path / "lib" / version / "site-packages" / "sandkeeper"
    start, pack = tmp_path / "libexec/start.py", tmp_path / "libexec/start.pack"
    package.mkdir(parents=True)
    start.parent.mkdir()
    shutil.copy(PACKAGING / "bundle/start/start.py", start)
    (package / "__init__.py").touch()
    (package / "packed.py").write_text("import dataclasses, re\nWORD = re.compile('a|b', re.I)\n")
    (package / "entry.py").write_text(
        "from sandkeeper import packed\n"
        "def main():\n"
        "    from sandkeeper import plain\n"
        "    print(packed.WORD.match('B')[0], packed.__file__, plain.HERE)\n"
    )
    (package / "plain.py").write_text("HERE = __spec__.origin\n")
    python = [sys.executable, "-I", "-S"]
    names = ["sandkeeper.packed", "sandkeeper.entry"]
    record = [*python, PACKAGING / "bundle/start/record.py", start, pack, *names]
    subprocess.run(record, check=True)
    assert b"packed" in pack.read_bytes()[:500]

    index = pack.read_bytes()
    shutil.rmtree(package / "__pycache__")
    (package / "packed.py").unlink()
    done = subprocess.run([*python, start], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["B", str(package / "packed.py"), str(package / "plain.py")]

    pack.write_bytes(index[:100])
    (package / "packed.py").write_text("import re\nWORD = re.compile('B')\n")
    done = subprocess.run([*python, start], check=True, capture_output=True, text=True)
    assert done.stdout.split()[0] == "B"


def test_an_archive_is_made_of_names_and_contents_alone(
    archives: ModuleType, tmp_path: Path
) -> None:
    packed = []
    for number, order in enumerate((("b", "a"), ("a", "b"))):
        folder = tmp_path / str(number)
        folder.mkdir(mode=0o700 + number)
        for name in order:
            (folder / name).write_text(f"content of {name}")
            os.utime(folder / name, (number, number))
        (folder / "a").chmod(0o700 + number)
        (folder / "link").symlink_to("a")
        packed.append(archives.pack(folder, "top", 1234, first=("b",)))

    assert packed[0] == packed[1]
    assert archives.zst(packed[0]) == archives.zst(packed[1])
    assert archives.gz(packed[0]) == archives.gz(packed[1])
    with tarfile.open(fileobj=BytesIO(archives.gz(packed[0]))) as archive:
        members = archive.getmembers()
    assert [one.name for one in members] == ["top/b", "top", "top/a", "top/link"]
    assert {(one.uid, one.mtime) for one in members} == {(0, 1234)}
    assert [one.mode for one in members] == [0o644, 0o755, 0o755, 0o777]


def test_an_image_has_the_bundle_as_its_last_layer(tmp_path: Path, archives: ModuleType) -> None:
    tree = tmp_path / "sandkeeper"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/sandkeeper").write_text("program")
    about = {"name": "sandkeeper", "version": "7.1", "machine": "x86_64", "python": "x"}
    (tree / "bundle.json").write_text(json.dumps(about))
    bundle = tmp_path / "bundle.tar.gz"
    bundle.write_bytes(archives.gz(archives.pack(tree, "sandkeeper", 1, first=("bundle.json",))))
    command = [sys.executable, PACKAGING / "image/build.py", "--bundle", bundle]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    subprocess.run([*command, "--output", tmp_path], check=True, env=environment)

    with tarfile.open(tmp_path / "sandkeeper-7.1-linux-x86_64.oci.tar") as image:

        def read(name: str) -> bytes:
            file = image.extractfile(name)
            assert file is not None
            return file.read()

        index = json.loads(read("index.json"))
        place = "blobs/sha256/" + index["manifests"][0]["digest"].removeprefix("sha256:")
        (layer,) = json.loads(read(place))["layers"]
        data = read("blobs/sha256/" + layer["digest"].removeprefix("sha256:"))
    with tarfile.open(fileobj=BytesIO(data)) as inside:
        names = inside.getnames()
        link = inside.getmember("usr/local/bin/sandkeeper").linkname
    assert "opt/sandkeeper/bin/sandkeeper" in names
    assert link == "/opt/sandkeeper/bin/sandkeeper"
    assert link in (PACKAGING / "Containerfile").read_text()
    assert link in (PACKAGING / "systemd/sandkeeper.service").read_text()
