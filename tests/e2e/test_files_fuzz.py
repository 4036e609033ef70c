"""Schemathesis on the file routes: whatever is sent, the answer is one that is described.

The server runs in a mount namespace of its own in which only its own directory can be written,
since the fuzzer may well ask to delete everything.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import (
    response_schema_conformance,
    status_code_conformance,
)
from tests.harness import Server, needs_root, until

pytestmark = needs_root

SCHEMAS = Path(__file__).parents[2] / "src" / "sandkeeper" / "openapi"

CAGE = """
set -e
mount --bind "$0" "$0"
for place in / /dev /dev/shm /sys /proc; do
  mount -o remount,bind,ro "$place" 2>/dev/null || mount --bind -o ro "$place" "$place"
done
exec "$@"
"""


class CagedServer(Server):
    """A server that can write below its own folder only."""

    def start(self) -> None:
        """Start it in a private mount namespace."""
        cage = ["unshare", "--mount", "--propagation", "private", "sh", "-c", CAGE, self.folder]
        command = [sys.executable, "-m", "sandkeeper", "--host", "127.0.0.1"]
        with open(self.folder / "stderr.log", "ab") as stderr:
            self.process = subprocess.Popen(
                [*cage, *command, "--port", str(self.port)],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        until(self._answers)


@pytest.fixture(scope="module")
def caged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("caged")
    (folder / "tmp").mkdir()
    with CagedServer(folder, env={"TMPDIR": str(folder / "tmp")}) as server:
        yield server


def test_the_cage_holds(caged: Server) -> None:
    outside = caged.client.put("/filesystem//outside-the-cage", json={})
    inside = caged.client.put("/filesystem/inside", json={})

    assert (outside.status_code, "read-only" in outside.text) == (422, True)
    assert inside.status_code == 200


files = schemathesis.openapi.from_dict(json.loads((SCHEMAS / "files.json").read_text()))
searches = schemathesis.openapi.from_dict(json.loads((SCHEMAS / "search.json").read_text()))
searches = searches.exclude(path_regex="^/watch/")  # it never ends, by design
fuzzed = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@files.parametrize()
@fuzzed
def test_every_answer_about_files_is_a_described_one(case: Any, caged: Server) -> None:
    check(case, caged)


@searches.parametrize()
@fuzzed
def test_every_answer_of_a_search_is_a_described_one(case: Any, caged: Server) -> None:
    check(case, caged)


def check(case: Any, caged: Server) -> None:
    reply = case.call(base_url=caged.url, timeout=120)

    # 500 is the contract's word for what the system refused; it always carries the reason.
    if reply.status_code == 500:
        assert json.loads(reply.content)["error"]
    if reply.status_code == 404 and reply.content == b"404 page not found":
        return  # the fuzzer made a path with another route's shape, or none
    case.validate_response(
        reply,
        checks=[status_code_conformance, response_schema_conformance],
    )


def test_nothing_of_all_that_was_an_unhandled_error(caged: Server) -> None:
    assert [line for line in caged.log_lines() if "stack" in line] == []
