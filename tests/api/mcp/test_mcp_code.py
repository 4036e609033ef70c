"""Tools for code that keeps its state: with Bash, and with real kernels."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness import Server
from tests.kernels import PATIENCE, environment
from tests.mcp_calls import Tools

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    env = environment(SANDKEEPER_MCP_WAIT_SECONDS=str(PATIENCE))
    with Server(tmp_path_factory.mktemp("mcp-code"), env=env) as server:
        server.client.timeout = PATIENCE + 30
        yield Tools(server)


def test_a_run_keeps_its_state(tools: Tools) -> None:
    first = tools.value(
        "codeRun", code="cd /usr; A=1; echo out; echo err >&2; false", language="bash"
    )
    assert (first["status"], first["exitCode"], first["executionCount"]) == ("error", 1, 1)
    assert (first["stdout"], first["stderr"], first["truncated"]) == ("out\n", "err\n", False)
    code = 'pwd; echo "$A $B"'
    second = tools.value("codeRun", code=code, language="bash", env={"B": "b"})
    assert (second["stdout"], second["contextId"]) == ("/usr\n1 b\n", first["contextId"])
    (known,) = tools.value("codeContexts")["contexts"]
    assert (known["id"], known["language"], known["state"]) == (first["contextId"], "bash", "idle")
    assert {"bash", "python3"} <= set(tools.value("codeContexts")["languages"])


def test_results_are_readable_and_plots_are_pictures(tools: Tools) -> None:
    code = (
        "import matplotlib.pyplot as plt, pandas as pd\nplt.plot([1, 2]); plt.show()\n"
        "pd.DataFrame({'a': [1]})"
    )
    result = tools.call("codeRun", code=code)
    text, picture = result["content"]
    assert (picture["type"], picture["mimeType"]) == ("image", "image/png")
    assert picture["data"].startswith("iVBOR")
    plotted, table = result["structuredContent"]["results"]
    assert plotted["image/png"] == "picture 1"
    assert list(table) == ["text/plain"]
    assert "iVBOR" not in text["text"]
    failed = tools.value("codeRun", code="1 / 0")["error"]
    assert (failed["name"], failed["value"]) == ("ZeroDivisionError", "division by zero")
    assert "\x1b" not in failed["traceback"]


def test_contexts_are_made_looked_at_begun_anew_and_ended(tools: Tools, tmp_path: Path) -> None:
    made = tools.value("codeContextCreate", language="bash", workingDir=str(tmp_path))
    one = {"contextId": made["id"]}
    assert tools.value("codeRun", code="V=5; pwd", **one)["stdout"] == f"{tmp_path}\n"
    (variable,) = tools.value("codeVariables", **one)["variables"]
    assert (variable["name"], variable["value"]) == ("V", "5")
    assert tools.value("codeInterrupt", **one) == {"status": "idle"}
    assert tools.value("codeRestart", **one) == {"status": "restarted"}
    assert tools.value("codeVariables", **one)["variables"] == []
    assert tools.value("codeContextDelete", **one) == {"status": "deleted"}
    assert "not found" in tools.error("codeRun", code="x", **one)


def test_what_runs_longer_is_looked_at_later_and_can_be_interrupted(tools: Tools) -> None:
    with Server(
        tools.server.folder / "short", env=environment(SANDKEEPER_MCP_WAIT_SECONDS="1")
    ) as server:
        short = Tools(server)
        go = server.workdir / "go"
        os.mkfifo(go)
        code = f"echo begun; read -r x <{go}; echo $x"
        begun = short.value("codeRun", code=code, language="bash")
        while not begun["stdout"]:
            begun = short.value("codeExecution", executionId=begun["executionId"], wait=1)
        assert (begun["status"], begun["stdout"], begun["pollRequired"]) == (
            *("running", "begun\n", True),
        )
        go.write_text("done\n")
        looked = short.value(
            "codeExecution", executionId=begun["executionId"], cursor=begun["cursor"], wait=60
        )
        while looked.get("pollRequired"):
            looked = short.value("codeExecution", executionId=begun["executionId"], wait=60)
        assert looked["stdout"].endswith("done\n")
        context = {"contextId": begun["contextId"]}
        slept = short.value("codeRun", code="sleep 600", **context)
        assert short.value("codeInterrupt", **context) == {"status": "interrupted"}
        ended = short.value("codeExecution", executionId=slept["executionId"], wait=60)
        assert (ended["status"], ended["exitCode"]) == ("interrupted", 130)
        late = short.value("codeRun", code="sleep 600", timeout=0.2, **context)
        while late.get("pollRequired"):
            late = short.value("codeExecution", executionId=late["executionId"], wait=60)
        assert late["status"] == "timeout"
        short.value("codeContextDelete", **context)


def test_long_output_is_cut_to_its_end(tools: Tools) -> None:
    told = tools.value("codeRun", code="seq 1 100000", language="bash")
    assert (told["truncated"], len(told["stdout"])) == (True, 64 << 10)
    assert told["stdout"].endswith("\n99999\n100000\n")


def test_what_makes_no_sense_is_refused(tools: Tools) -> None:
    assert "language" in tools.error("codeRun", code="x", language="a", contextId="b")
    assert "no-such" in tools.error("codeRun", code="x", language="no-such")
    assert "not found" in tools.error("codeExecution", executionId="none")
    assert 'validating "arguments"' in tools.error("codeRun")
