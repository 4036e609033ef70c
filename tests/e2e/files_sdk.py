"""The files half of the published Python client, async and sync, against a server: URL FOLDER."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

os.environ.update(BL_API_KEY="dummy", BL_WORKSPACE="dummy", BL_ENABLE_OPENTELEMETRY="false")

from blaxel.core.client.models import Metadata, Sandbox, SandboxSpec
from blaxel.core.sandbox.default.sandbox import SandboxInstance
from blaxel.core.sandbox.sync.sandbox import SyncSandboxInstance

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

    await asyncio.gather(*[one(number) for number in range(50)])


async def main() -> None:
    def config() -> Sandbox:
        return Sandbox(metadata=Metadata(name="local"), spec=SandboxSpec())

    for name, client in [
        ("async", SandboxInstance(config(), force_url=URL).fs),
        ("sync", AsAsync(SyncSandboxInstance(config(), force_url=URL).fs)),
    ]:
        root = FOLDER / name
        root.mkdir()
        await check(client, root)
        print(name, "ok")


asyncio.run(main())
