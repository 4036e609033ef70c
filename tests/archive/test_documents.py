"""What stands at the front of an archive: manifests and processes, whoever has made them."""

import io
import json
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandkeeper.archive.documents import ManifestHead, Paths, read_head, read_processes

UNREADABLE = (ValueError, RecursionError, msgspec.DecodeError)

names = st.binary(min_size=1, max_size=40).map(lambda raw: raw.replace(b"\0", b"n"))


def read(text: str | bytes) -> tuple[ManifestHead, list[str]]:
    raw = text.encode() if isinstance(text, str) else text
    deleted = Paths()
    try:
        head = read_head(io.BytesIO(raw), deleted)
        return head, list(deleted)
    finally:
        deleted.close()


@given(st.lists(names, max_size=20), st.integers(0, 200_000), st.sampled_from([None, 1, 4]))
def test_a_manifest_is_read_as_it_was_written(
    paths: list[bytes], more: int, indent: int | None
) -> None:
    texts = [path.decode("utf-8", "surrogateescape") for path in paths]
    said = {
        "excludes": ["x" * more, *texts],
        "deleted": texts,
        "createdAt": "now",
        "nested": {"deleted": [1, [2]], "more": None},
        "processes": True,
        "version": 1,
    }

    head, deleted = read(json.dumps(said, indent=indent))

    assert (head, deleted) == (ManifestHead(1, "now", True), texts)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"version": 1',
        '{"version": 1}}',
        '{"version": 1,}',
        '{"version": "1"}',
        '{"version": 1, 2: 3}',
        '{"version": 1, "deleted": {}}',
        '{"version": 1, "deleted": null}',
        '{"version": 1, "deleted": ["a" "b"]}',
        '{"version": 1, "deleted": ["a", 1]}',
        '{"version": 1, "deleted": ["a\\u0000b"]}',
        '{"version": 1, "deleted": ["\\ud800"]}',
        '{"deleted": []}',
        '{"version": 1, "x": ' + "[" * 100_000,
        b'{"version": 1, "x": "\xff"}',
    ],
)
def test_what_is_no_manifest_is_told(text: str | bytes) -> None:
    with pytest.raises(UNREADABLE):
        read(text)


def test_processes_are_read_one_by_one() -> None:
    one = {"name": "a", "command": "true", "workingDir": "/"}
    whole = json.dumps({"processes": [one] * 3, "more": [1]})
    saved = msgspec.json.encode(read_processes(io.BytesIO(whole.encode())))

    assert len(msgspec.json.decode(saved)) == 3
    with pytest.raises(UNREADABLE):
        read_processes(io.BytesIO(b'{"processes": [1]}'))


def test_a_manifest_of_millions_of_texts_takes_no_more_memory_than_a_window() -> None:
    program = (
        "import io, resource\n"
        "from sandkeeper.archive.documents import Paths, read_head\n"
        'raw = b\'{"version": 1, "deleted": [\' + b\'"",\' * 500_000 + b\'""]}\'\n'
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "deleted = Paths()\n"
        "read_head(io.BytesIO(raw), deleted)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True)

    assert int(done.stdout) < 8 << 10
