"""The published Python clients of two code interpreters, E2B's and Blaxel's, with real kernels."""

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness import Server
from tests.kernels import environment
from tests.later import Later

e2b = Later("e2b")
e2b_code = Later("e2b_code_interpreter")
models = Later("blaxel.core.client.models")
interpreter = Later("blaxel.core.sandbox.default.interpreter")
sync_interpreter = Later("blaxel.core.sandbox.sync.interpreter")

pytestmark = [
    pytest.mark.usefixtures("no_interpreter"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.timeout(300),
]
KEY = "code-key"

PLOT = """
import matplotlib.pyplot as plt
plt.figure()
plt.plot([0, 1, 2], [5, 6, 7], label="up")
plt.xlabel("Time (s)")
plt.title("A plot")
plt.show()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    env = environment(SANDKEEPER_TOKEN=KEY, HOME=str(home), SANDKEEPER_CODE_INTERRUPT_MS="60000")
    with Server(tmp_path_factory.mktemp("code"), env=env) as running:
        running.client.headers["Authorization"] = f"Bearer {KEY}"
        yield running


def pointed(server: Server) -> dict[str, Any]:
    return {"api_url": server.url, "sandbox_url": server.url, "api_key": KEY}


@pytest.fixture(scope="module")
def box(server: Server) -> Iterator[Any]:
    made = e2b_code.Sandbox.create(timeout=3000, envs={"OF_ALL": "sandbox"}, **pointed(server))
    yield made
    made.kill()


# E2B's


def test_variables_stay_and_results_come_back(box: Any) -> None:
    seen: list[Any] = []
    first = box.run_code("x = 20\nprint('out')\nx + 1", on_stdout=seen.append)
    assert (first.text, first.error, first.logs.stdout) == ("21", None, ["out\n"])
    assert [(one.line, one.error, one.timestamp > 1e18) for one in seen] == [("out\n", False, True)]
    second = box.run_code("'te' + 'xt'")
    assert (second.text, second.execution_count) == ("text", (first.execution_count or 0) + 1)
    failed = box.run_code("import sys; print('e', file=sys.stderr); x / 0")
    assert failed.error is not None
    assert (failed.error.name, failed.error.value) == ("ZeroDivisionError", "division by zero")
    assert "ZeroDivisionError" in failed.error.traceback
    assert failed.logs.stderr == ["e\n"]


def test_results_have_all_their_kinds(box: Any) -> None:
    latex = box.run_code(
        "from IPython.display import display\ndisplay({'text/latex': 'L'}, raw=True)"
    )
    assert list(latex.results[0].formats()) == ["latex"]
    many = box.run_code(
        "from IPython.display import *\n"
        "display(HTML('<b>h</b>')); display(Markdown('*m*')); display(SVG('<svg></svg>'))\n"
        "display(JSON({'k': [1]})); display(Javascript('1'))\n"
        "display({'application/x-own': 'o'}, raw=True)\n5"
    )
    html, markdown, svg, json_, script, own, main = many.results
    assert (html.html, markdown.markdown, script.javascript) == ("<b>h</b>", "*m*", "1")
    assert "<svg" in (svg.svg or "")
    assert json_.json == {"k": [1]}
    assert own.extra == {"application/x-own": "o"}
    assert ([one.is_main_result for one in many.results], main.text) == ([False] * 6 + [True], "5")


def test_plots_are_pictures_and_charts_and_tables_are_data(box: Any) -> None:
    plotted = box.run_code(PLOT)
    assert plotted.error is None
    (result,) = plotted.results
    assert (result.png or "").startswith("iVBOR")
    chart: Any = result.chart
    assert (chart.type, chart.title, chart.x_label, chart.x_unit) == (
        *("line", "A plot", "Time (s)", "s"),
    )
    (line,) = chart.elements
    assert (line.label, line.points) == ("up", [(0.0, 5.0), (1.0, 6.0), (2.0, 7.0)])
    table = box.run_code("import pandas as pd\npd.DataFrame({'a': [1, 2], 'b': ['x', None]})")
    assert table.results[0].data == {"a": [1, 2], "b": ["x", None]}
    assert "<table" in (table.results[0].html or "")


def test_variables_of_the_sandbox_and_of_one_run(box: Any) -> None:
    code = "import os; (os.getenv('OF_ALL'), os.getenv('OF_ONE'))"
    assert box.run_code(code).text == "('sandbox', None)"
    assert box.run_code(code, envs={"OF_ONE": "1"}).text == "('sandbox', '1')"
    assert box.run_code(code, envs={"OF_ALL": "2"}).text == "('2', None)"
    assert box.run_code(code).text == "('sandbox', None)"
    shown = box.run_code("echo $OF_ALL ${OF_ONE:-none}", language="bash")
    assert shown.logs.stdout == ["sandbox none\n"]


def test_code_and_files_begin_in_the_same_folder(box: Any) -> None:
    box.run_code("open('made-by-code', 'w').write('1')")
    assert box.files.read("made-by-code") == "1"
    assert box.commands.run("cat made-by-code").stdout == "1"
    assert box.run_code("cat made-by-code", language="bash").logs.stdout == ["1"]


def test_a_language_keeps_its_own_state(box: Any) -> None:
    assert box.run_code("cd /usr; A=5; f() { echo f$A; }", language="bash").error is None
    assert box.run_code("pwd; f", language="bash").logs.stdout == ["/usr\nf5\n"]
    with pytest.raises(e2b.SandboxException, match="no-such-language"):
        box.run_code("1", language="no-such-language")


def test_contexts_are_apart(server: Server, box: Any) -> None:
    folder = str(server.workdir)
    made = box.create_code_context(language="python", cwd=folder)
    assert (made.language, made.cwd) == ("python", folder)
    assert box.list_code_contexts()[-1] == made
    other = box.create_code_context()
    assert box.run_code("import os; y = 1; os.getcwd()", context=made).text == folder
    failed = box.run_code("y", context=other)
    assert failed.error is not None
    assert failed.error.value == "name 'y' is not defined"
    box.restart_code_context(made.id)
    assert box.run_code("'y' in globals()", context=made).text == "False"
    box.remove_code_context(other)
    assert other not in box.list_code_contexts()
    with pytest.raises(e2b.NotFoundException):
        box.run_code("1", context=other)


def test_a_client_whose_time_is_up_has_interrupted_its_code(box: Any) -> None:
    made = box.create_code_context()
    box.run_code("z = 'kept'", context=made)
    with pytest.raises(e2b.TimeoutException):
        box.run_code("import threading; threading.Event().wait()", context=made, timeout=2)
    assert box.run_code("z", context=made, timeout=100).text == "kept"


def test_an_interpreter_that_dies_is_an_error_and_the_next_run_works(box: Any) -> None:
    ended = box.run_code("import os; os._exit(3)")
    assert ended.error is not None
    assert ended.error.name == "InterpreterDied"
    assert box.run_code("1 + 1").text == "2"


def test_lines_come_as_they_are_printed(server: Server, box: Any) -> None:
    go = server.workdir / "go-lines"
    os.mkfifo(go)
    first = threading.Event()
    writer = threading.Thread(target=lambda: first.wait(60) and go.write_text("x"))
    writer.start()
    code = f"print('one', flush=True)\nopen({str(go)!r}).read()\nprint('two')"
    done = box.run_code(code, on_stdout=lambda _: first.set())
    writer.join()
    assert "".join(done.logs.stdout) == "one\ntwo\n"


def test_the_asynchronous_client_runs_many_contexts_at_once(server: Server) -> None:
    async def scene() -> None:
        box = await e2b_code.AsyncSandbox.create(timeout=3000, **pointed(server))
        contexts = await asyncio.gather(
            *(box.create_code_context(language="bash") for _ in range(8))
        )
        runs = (
            box.run_code(f"sleep 0.2 && echo {number}", context=context)
            for number, context in enumerate(contexts)
        )
        done = await asyncio.gather(*runs)
        assert [one.logs.stdout for one in done] == [[f"{number}\n"] for number in range(8)]
        ran = await box.run_code("b = 1\nb + 1")
        assert ran.text == "2"
        await asyncio.gather(*(box.remove_code_context(one) for one in contexts))

    asyncio.run(scene())


def test_a_server_that_is_killed_loses_nothing_of_a_run(server: Server, box: Any) -> None:
    made = box.create_code_context()
    go = server.workdir / "go-killed"
    os.mkfifo(go)
    code = f"w = 7; print('before', flush=True); open({str(go)!r}).read(); print('after')"
    with pytest.raises((e2b.SandboxException, Exception)):
        box.run_code(code, context=made, on_stdout=lambda _: server.kill9())
    server.restart()
    # Nobody told the interpreter that its client has gone: the server was not there to see it.
    go.write_text("x")
    assert box.run_code("w", context=made).text == "7"
    path = f"/code/contexts/{made.id}"
    first = server.client.get(path).json()["executions"][0]
    whole = server.client.get(
        f"/code/executions/{first['id'] if isinstance(first, dict) else first}"
    )
    assert (whole.json()["status"], whole.json()["stdout"]) == ("ok", "before\nafter\n")


# Blaxel's


def blaxel(server: Server) -> Any:
    record = models.Sandbox(metadata=models.Metadata(name="local"), spec=models.SandboxSpec())
    headers = {"Authorization": f"Bearer {KEY}"}
    return interpreter.CodeInterpreter(record, force_url=server.url, headers=headers)


def test_blaxels_asynchronous_client(server: Server, tmp_path: Path) -> None:
    async def scene() -> None:
        box = blaxel(server)
        seen: list[str] = []
        done = await box.run_code(
            "v = 3\nprint('o')\nv * 2", on_stdout=lambda one: seen.append(one.text)
        )
        assert (done.results[0].text, done.logs.stdout, seen) == ("6", ["o\n"], ["o\n"])
        assert done.error is None
        assert isinstance(done.execution_count, int)
        made = await box.create_code_context(language="python", cwd=str(tmp_path))
        apart = await box.run_code("import os; os.getcwd()", context=made)
        assert apart.results[0].text == str(tmp_path)
        failed = await box.run_code("v", context=made)
        assert failed.error is not None
        assert (failed.error.name, failed.error.value) == ("NameError", "name 'v' is not defined")
        given = await box.run_code("import os; os.environ['G']", envs={"G": "given"})
        assert given.results[0].text == "given"
        plotted = await box.run_code(PLOT)
        assert plotted.results[0].png.startswith("iVBOR")
        shell = await box.run_code("echo $0", language="bash")
        assert shell.logs.stdout == ["bash\n"]
        with pytest.raises(RuntimeError, match="404"):
            await box.run_code("1", context=interpreter.CodeInterpreter.Context("none"))
        await box.process.get_client().aclose()

    asyncio.run(scene())


def test_blaxels_synchronous_client(server: Server) -> None:
    record = models.Sandbox(metadata=models.Metadata(name="local"), spec=models.SandboxSpec())
    headers = {"Authorization": f"Bearer {KEY}"}
    box = sync_interpreter.SyncCodeInterpreter(record, force_url=server.url, headers=headers)
    made = box.create_code_context(language="bash")
    assert box.run_code("A=1; echo a", context=made).logs.stdout == ["a\n"]
    assert box.run_code("echo $A", context=made).logs.stdout == ["1\n"]
    assert made.id in server.client.get("/code/contexts").text
    box.process.get_client().close()
