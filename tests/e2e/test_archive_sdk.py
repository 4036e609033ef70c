"""The archive through the published clients, which refuse what does not fit their models."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from tests.harness import Server
from tests.later import Later
from tests.node_client import run_node
from tests.storage import Storage, storage

calls = "blaxel.core.sandbox.client.api.archive"
export = Later(f"{calls}.post_archive_export")
resume = Later(f"{calls}.post_archive_resume")
status_of = Later(f"{calls}.get_archive_status")
models = Later("blaxel.core.sandbox.client.models")
connection = Later("blaxel.core.sandbox.client.client")


@pytest.fixture
def store() -> Iterator[Storage]:
    with storage() as made:
        yield made


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("archive")
    (folder / "root").mkdir()
    with Server(folder, env={"SANDKEEPER_ARCHIVE_ROOT": str(folder / "root")}) as running:
        (folder / "root/new").write_text("new")
        yield running


def test_python_exports_polls_and_resumes(box: Server, store: Storage) -> None:
    async def use() -> Any:
        async with connection.Client(base_url=box.url, timeout=30) as client:
            wanted = (
                models.ExportOptions(),
                models.ExportOptions(dry_run=True),
                models.ExportOptions(url=store.url("a"), async_=True),
            )
            seen = [await export.asyncio(client=client, body=options) for options in wanted]
            while (status := await status_of.asyncio(client=client)) is not None:
                if str(status.export.state) != "running":
                    break
            parts = models.MultipartUpload(
                part_urls=[store.url("p")], part_size=5 << 20, complete_url=store.url("c")
            )
            options = models.ExportOptions(multipart=parts)
            seen.append(await export.asyncio(client=client, body=options))
            seen += [status, await resume.asyncio(client=client)]
            return seen

    nowhere, dry, begun, parted, frozen, resumed = asyncio.run(use())

    assert isinstance(nowhere, models.ErrorResponse)
    assert isinstance(dry, models.ExportResult)
    assert [(str(change.kind), change.path) for change in dry.changes] == [("added", "new")]
    assert isinstance(begun, models.ExportProgress)
    assert isinstance(parted, models.ExportResult)
    assert (parted.uploaded, parted.size) == (True, len(store.kept["p"]))
    assert isinstance(frozen, models.QuiesceStatus)
    assert (str(frozen.state), str(frozen.export.state)) == ("quiesced", "succeeded")
    assert isinstance(resumed, models.QuiesceStatus)
    assert str(resumed.state) == "active"


def test_node_exports_and_resumes(box: Server, store: Storage) -> None:
    seen = run_node("archive.mjs", box.url, store.url("n"))

    assert seen["nowhere"][0] == 400
    assert seen["dry"][1]["changes"] == [{"kind": "added", "path": "new", "size": 3}]
    assert seen["sent"][0] == 200
    assert seen["sent"][1]["size"] == len(store.kept["n"])
    assert seen["frozen"][1]["state"] == "quiesced"
    assert seen["resumed"][1]["state"] == "active"
