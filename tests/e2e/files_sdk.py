"""The files half of the published Python client, async and sync, against a server: URL FOLDER."""

import asyncio
import functools
import os
import ssl
import sys
from pathlib import Path
from typing import Any

os.environ.update(BL_API_KEY="dummy", BL_WORKSPACE="dummy", BL_ENABLE_OPENTELEMETRY="false")

from blaxel.core.client.models import Metadata, Sandbox, SandboxSpec
from blaxel.core.sandbox.default.sandbox import SandboxInstance
from blaxel.core.sandbox.sync.filesystem import SyncSandboxFileSystem
from blaxel.core.sandbox.sync.sandbox import SyncSandboxInstance

# The sync client makes a client of httpx for each call, which reads all certificates: most of the
# time here, and none of it speaks TLS.
ssl.create_default_context = functools.cache(ssl.create_default_context)

URL, FOLDER = sys.argv[1], Path(sys.argv[2])
BIG = os.urandom(6 * 1024 * 1024 + 123)


def raises(error: BaseException | None, word: str) -> None:
    assert error is not None, "no error was raised"
    assert word in str(error), error


async def caught(awaitable: Any) -> BaseException | None:
    try:
        await awaitable
    except Exception as error:
        return error
    return None


class AsAsync:
    """Makes the sync client look like the async one, so that one script serves both."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(method, *args, **kwargs)

        return call


async def check(fs: Any, root: Path) -> None:
    text = "líne one\n漢字 & <tags>\n"
    await fs.mkdir(f"{root}/a/b/c")
    await fs.write(f"{root}/a/hello.txt", text)
    assert await fs.read(f"{root}/a/hello.txt") == text
    await fs.write(f"{root}/a/hello.txt", "again")
    assert await fs.read(f"{root}/a/hello.txt") == "again"
    await fs.write(f"{root}/new/parents/f", "")
    assert await fs.read(f"{root}/new/parents/f") == ""

    listing = await fs.ls(f"{root}/a")
    assert [(f.name, f.path) for f in listing.files] == [("hello.txt", f"{root}/a/hello.txt")]
    assert [d.name for d in listing.subdirectories] == ["b"]
    assert (await fs.ls("/")).path == "/"

    raises(await caught(fs.rm(f"{root}/a")), "not empty")
    await fs.rm(f"{root}/a", recursive=True)
    raises(await caught(fs.read(f"{root}/a/hello.txt")), "no such file")
    raises(await caught(fs.ls(f"{root}/a")), "no such file")

    binary = bytes(range(256)) * 100
    await fs.write_binary(f"{root}/bin", binary)
    assert await fs.read_binary(f"{root}/bin") == binary
    await fs.write_binary(f"{root}/big", BIG)
    assert await fs.read_binary(f"{root}/big") == BIG
    await fs.write(f"{root}/big.txt", "ü" * 3_000_000)
    assert await fs.read(f"{root}/big.txt") == "ü" * 3_000_000
    await fs.download(f"{root}/bin", str(root / "downloaded"))
    assert (root / "downloaded").read_bytes() == binary

    files = [{"path": "x.py", "content": "x"}, {"path": "sub/y.md", "content": "y"}]
    written = await fs.write_tree(files, f"{root}/tree")
    assert [f.name for f in written.files] == ["x.py"]
    absolute = [{"path": f"{root}/abs/z", "content": "z"}]
    assert (await fs.write_tree(absolute)).path == "/"
    assert await fs.read(f"{root}/abs/z") == "z"
    tree = await fs.read_tree(f"{root}/tree")
    assert {f.path: f.content for f in tree.files} == {
        f"{root}/tree/x.py": "x",
        f"{root}/tree/sub/y.md": "y",
    }
    only = await fs.read_tree(f"{root}/tree", patterns=["*.md"], exclude_hidden=True)
    assert [f.name for f in only.files] == ["y.md"]
    raises(await caught(fs.read_tree(f"{root}/tree", max_files=1)), "maxFiles")

    copied = await fs.cp(f"{root}/tree", f"{root}/copy", no_overwrite=True)
    assert copied.destination == f"{root}/copy"
    error = await caught(fs.cp(f"{root}/bin", f"{root}/copy/x.py", no_overwrite=True))
    assert isinstance(error, FileExistsError), error

    await fs.write("relative/to/workdir.txt", "w")
    assert await fs.read("relative/to/workdir.txt") == "w"
    await fs.rm("relative", recursive=True)

    async def one(number: int) -> None:
        await fs.write(f"{root}/par/{number}", str(number) * 200_000)
        assert len(await fs.read(f"{root}/par/{number}")) == 200_000 * len(str(number))

    # Each call of the sync client makes a client of its own, which takes it a tenth of a second.
    many = 10 if isinstance(fs, AsAsync) else 100
    await asyncio.gather(*[one(number) for number in range(many)])
    await check_odd_names(fs, root)
    await check_binaries(fs, root)


async def check_odd_names(fs: Any, root: Path) -> None:
    # The clients do not encode paths: `#`, `?` and `%41` mean in a URL what they mean there.
    names = ["with space;&=+,", "ünï 漢字 😀", "quote'\"[x]{y}|z", "100%", "-n"]
    for name in names:
        path = f"{root}/odd dir {name}/{name}"
        await fs.write(path, "first")
        await fs.write_binary(path, name.encode())
        assert await fs.read(path) == name, path
        assert await fs.read_binary(path) == name.encode(), path
    await fs.write_tree([{"path": name, "content": "t"} for name in names], f"{root}/odd tree")
    tree = await fs.read_tree(f"{root}/odd tree")
    assert {f.name: f.content for f in tree.files} == dict.fromkeys(names, "t")
    await fs.cp(f"{root}/odd tree", f"{root}/odd copy", no_overwrite=True)
    await fs.cp(f"{root}/odd tree", f"{root}/odd plain copy")
    for where in ("odd copy", "odd plain copy"):
        assert sorted(f.name for f in (await fs.ls(f"{root}/{where}")).files) == sorted(names)
    for name in names:
        await fs.rm(f"{root}/odd tree/{name}")
    assert (await fs.ls(f"{root}/odd tree")).files == []


async def check_binaries(fs: Any, root: Path) -> None:
    local = root / "local"
    local.write_bytes(BIG[:70_000])
    await fs.write_binary(f"{root}/from-file", str(local))
    await fs.write_binary(f"{root}/from-array", bytearray(BIG[:70_000]))
    for name in ("from-file", "from-array"):
        assert (root / name).read_bytes() == BIG[:70_000]
    await fs.mkdir(f"{root}/private", "0700")
    assert oct((root / "private").stat().st_mode)[-3:] == "700"
    await fs.write(f"{root}/exec", "x")
    (root / "exec").chmod(0o755)
    await fs.write_binary(f"{root}/exec", BIG)
    assert oct((root / "exec").stat().st_mode)[-3:] == "755"
    await fs.download(f"{root}/exec", str(root / "got"), 0o600)
    assert ((root / "got").read_bytes(), oct((root / "got").stat().st_mode)[-3:]) == (BIG, "600")
    await fs.write_binary(f"{root}/empty", b"")
    assert await fs.read_binary(f"{root}/empty") == b""
    assert await fs.read(f"{root}/empty") == ""
    raises(await caught(fs.write_binary(f"{root}/exec/below", b"x")), "not a directory")
    raises(await caught(fs.write_binary(f"{root}/exec/below", BIG)), "not a directory")
    raises(await caught(fs.read_binary(f"{root}/none")), "no such file")


class Seen:
    """Collects the events of a watch from whichever thread they come."""

    def __init__(self, root: Path) -> None:
        self.events: list[tuple[str, str, Any]] = []
        self._last = root / "w" / "lást file"

    def take(self, event: Any) -> None:
        self.events.append((event.op, event.name, event.content))

    async def take_later(self, event: Any) -> None:
        self.take(event)

    async def finish(self) -> None:
        """Write until an event with the content comes: nothing tells when the watch is armed."""
        async with asyncio.timeout(60):
            while not any(e[1] == self._last.name and e[2] == "whole" for e in self.events):
                self._last.write_text("whole")
                await asyncio.sleep(0.02)


async def check_watch(fs: Any, root: Path) -> None:
    (root / "w").mkdir()
    seen = Seen(root)
    take = seen.take if isinstance(fs, SyncSandboxFileSystem) else seen.take_later
    options = {"with_content": True, "ignore": ["secret"]}
    handle = fs.watch(f"{root}/w/**", take, options)
    (root / "w" / "secret").write_text("x")
    await seen.finish()
    handle.close()
    assert all(name != "secret" for _, name, _ in seen.events)


def config() -> Sandbox:
    return Sandbox(metadata=Metadata(name="local"), spec=SandboxSpec())


async def main() -> None:
    plain = SandboxInstance(config(), force_url=URL).fs
    sync = SyncSandboxInstance(config(), force_url=URL).fs
    for name, client, watching in [("async", plain, plain), ("sync", AsAsync(sync), sync)]:
        root = FOLDER / name
        root.mkdir()
        await check(client, root)
        await check_watch(watching, root)
        print(name, "ok")


asyncio.run(main())
