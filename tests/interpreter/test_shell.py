"""A kept shell: real Bash on its pipes, and the engine that speaks with it."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.harness import until

from sandkeeper.files.work import FileWork
from sandkeeper.interpreter.events import Outcome
from sandkeeper.interpreter.orders import Execute
from sandkeeper.interpreter.scribe.engine import EngineFailed, Lost, Unsupported
from sandkeeper.interpreter.scribe.shell import ShellEngine
from sandkeeper.interpreter.shell_start import ShellStart
from sandkeeper.interpreter.specs import ContextSpec
from sandkeeper.journal.segment import STDERR, STDOUT, Stream

SECONDS = 60.0


class Said:
    """What an execution told."""

    def __init__(self) -> None:
        self.out, self.err = bytearray(), bytearray()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.came = asyncio.Event()

    def text(self, stream: Stream, data: bytes) -> None:
        if stream == STDOUT:
            self.out += data
        else:
            assert stream == STDERR
            self.err += data
        self.came.set()

    def event(self, kind: str, **fields: Any) -> None:
        self.events.append((kind, fields))
        self.came.set()

    async def has(self, check: Callable[[], bool]) -> None:
        """Wait until something was said."""
        while not check():
            self.came.clear()
            await self.came.wait()


class Shell:
    """A shell and its engine."""

    def __init__(self, place: Path, env: dict[str, str] | None = None) -> None:
        self.place = place
        self.env = env or {}

    async def __aenter__(self) -> "Shell":
        wanted = ContextSpec(language="bash", cwd=str(self.place))
        self.prepared = await ShellStart(FileWork(lambda: None), lambda _: os.environ).prepare(
            wanted, self.place, None, 1
        )
        with open(self.place / "own", "wb") as own:
            self.process = subprocess.Popen(
                self.prepared.spec.argv,
                cwd=self.place,
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=own,
                stderr=own,
                start_new_session=True,
            )
        self.engine = ShellEngine(self.prepared.engine)
        self.facts = await self.engine.start()
        self.number = 0
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.engine.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await asyncio.to_thread(self.process.wait)

    def begin(self, code: str, **more: Any) -> "tuple[Said, asyncio.Task[Outcome]]":
        self.number += 1
        said = Said()
        order = Execute(id=str(self.number), context="c", code=code, **more)
        return said, asyncio.ensure_future(self.engine.execute(order, said))

    async def run(self, code: str, **more: Any) -> tuple[Said, Outcome]:
        said, task = self.begin(code, **more)
        return said, await task

    async def out(self, code: str, **more: Any) -> str:
        return (await self.run(code, **more))[0].out.decode()

    def interrupt(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def own_words(self) -> str:
        return (self.place / "own").read_text()


def with_shell(
    scene: Callable[[Shell], Awaitable[None]], place: Path, env: dict[str, str] | None = None
) -> None:
    async def played() -> None:
        async with asyncio.timeout(SECONDS), Shell(place, env) as shell:
            await scene(shell)

    asyncio.run(played())


def test_folder_variables_functions_and_the_last_status_stay(tmp_path: Path) -> None:
    async def scene(shell: Shell) -> None:
        assert shell.facts["language"] == "bash"
        said, end = await shell.run("cd /usr; A=1; export B='b c'; f() { echo f $A; }; (exit 3)")
        assert (end.status, end.exit_code, said.out, said.err) == ("error", 3, b"", b"")
        assert await shell.out("echo $?; pwd; echo $A; f; printenv B") == "3\n/usr\n1\nf 1\nb c\n"
        assert (await shell.run("[[ $A == 1 ]]"))[1].exit_code == 0

    with_shell(scene, tmp_path)


def test_output_is_apart_whole_and_before_the_end(tmp_path: Path) -> None:
    async def scene(shell: Shell) -> None:
        said, end = await shell.run("echo out; echo err >&2; printf half; printf 'h\\xc3' >&2")
        assert (said.out, said.err, end.exit_code) == (b"out\nhalf", b"err\nh\xc3", 0)
        assert said.events == [("started", {"executionCount": 1})]
        said, _ = await shell.run("seq 1 200000")
        assert said.out == b"".join(b"%d\n" % number for number in range(1, 200001))
        said, end = await shell.run(
            "head -c 20000000 /dev/zero; echo end 99 0 >&2; exec >&-; echo x"
        )
        assert (len(said.out), end.status) == (20_000_000, "error")
        assert said.err.startswith(b"end 99 0\n")
        assert await shell.out("echo back") == "back\n"

    with_shell(scene, tmp_path)


def test_errors_tell_the_lines_of_a_cell(tmp_path: Path) -> None:
    async def scene(shell: Shell) -> None:
        said, end = await shell.run("echo 1\nno-such-command\necho 3")
        assert (said.out, said.err) == (
            b"1\n3\n",
            b"bash: line 2: no-such-command: command not found\n",
        )
        said, end = await shell.run("x\nno-such-command", env={"E": "1\n2"}, cwd="/usr")
        assert b"bash: line 2: no-such-command: command not found\n" in said.err
        assert end.exit_code == 127
        said, end = await shell.run("echo 'unclosed")
        assert b"unexpected EOF" in said.err
        assert end.exit_code != 0
        said, end = await shell.run("if true; then")
        assert (end.status, await shell.out("echo on")) == ("error", "on\n")

    with_shell(scene, tmp_path)


def test_variables_and_a_folder_of_one_execution_are_gone_after_it(tmp_path: Path) -> None:
    async def scene(shell: Shell) -> None:
        env = {"A": 'it\'s \\ "q" $HOME\n2', "B": ""}
        assert await shell.out('echo "$A"; printenv B; pwd', env=env, cwd="/usr/lib") == (
            'it\'s \\ "q" $HOME\n2\n\n/usr/lib\n'
        )
        assert await shell.out("echo ${A-none} ${B-none}; pwd") == f"none none\n{tmp_path}\n"
        said, end = await shell.run("echo never", cwd="/no/such/folder")
        assert (said.out, end.exit_code) == (b"", 1)
        said, end = await shell.run("exit 4", env=env, cwd="/usr/lib")
        assert end.exit_code == 4
        assert await shell.out("echo ${A-none}; pwd") == f"none\n{tmp_path}\n"
        for bad in ({"code": "a\0b"}, {"code": "a", "env": {"a.b": "c"}}):
            said, end = await shell.run(**bad)  # type: ignore[arg-type]
            assert (said.events[0][0], end.status, said.out) == ("error", "error", b"")

    with_shell(scene, tmp_path)


@pytest.mark.parametrize(
    ("leaves", "code"),
    [
        ("exit 7", 7),
        ("g() { local inner=1; exit 7; }; g", 7),
        ("set -e; (exit 5); echo never", 5),
        ("set -u; echo $none; echo never", 127),
        ("echo ${none:?is missing}; echo never", 127),
        ("f() { set -euo pipefail; false | true; echo never; }; f", 1),
    ],
)
def test_a_cell_that_leaves_ends_only_itself(tmp_path: Path, leaves: str, code: int) -> None:
    async def scene(shell: Shell) -> None:
        await shell.run(
            "cd /usr; a=(1 'b c' $'d\\ne'); declare -A m=([k]='v w'); declare -i n=4; X=\"q'\\\"\""
            "; export X; h() { echo \"h $1\"; }; alias ll='ls -l'; shopt -s extglob; sleep 60 & "
            "until pgrep -P $$ -x sleep >/dev/null; do :; done"
        )
        said, end = await shell.run(leaves)
        assert (end.status, end.exit_code) == ("error", code)
        assert b"never" not in said.out
        asked = (
            'was=$?; set +eu; echo $was; pwd; echo ${#a[@]} "${a[2]}" ${m[k]} $((n+1)) "$X"; '
            "h y; printenv X; shopt extglob; alias ll; pgrep -cP $$ sleep; echo ${inner-none}"
        )
        assert (await shell.out(asked)).splitlines() == [
            *(str(code), "/usr", "3 d", "e v w 5 q'\"", "h y", "q'\""),
            *("extglob        \ton", "alias ll='ls -l'", "1", "none"),
        ]
        assert shell.process.poll() is None

    with_shell(scene, tmp_path)


@pytest.mark.parametrize(
    "code",
    [
        "while :; do :; done",
        "sleep 60; echo after",
        "f() { while true; do sleep 0.01; done; }; f; echo after",
        "for i in 1 2 3; do (sleep 60); done",
        "x=$(sleep 60); echo after",
        "cat /dev/zero | cat >/dev/null; echo after",
        "sleep 60 & wait; echo after",
        "python3 -c 'import signal; signal.pause()'; echo after",
        "set -e; sleep 60",
        "until [[ 1 == 2 ]]; do ((n++)); done",
    ],
)
def test_an_interrupt_ends_a_cell_and_nothing_else(tmp_path: Path, code: str) -> None:
    async def scene(shell: Shell) -> None:
        await shell.run("A=kept; cd /usr")
        said, task = shell.begin(f"echo begun; {code}")
        await said.has(lambda: b"begun" in said.out)
        while not task.done():  # one that comes between a program's fork and its exec is lost
            shell.interrupt()
            await asyncio.wait([task], timeout=1)
        end = await task
        assert (end.status, end.exit_code) == ("interrupted", 130)
        assert b"after" not in said.out
        assert await shell.out("echo $A; pwd") == "kept\n/usr\n"
        assert shell.process.poll() is None

    with_shell(scene, tmp_path)


def test_an_interrupt_between_two_cells_does_nothing(tmp_path: Path) -> None:
    async def scene(shell: Shell) -> None:
        await shell.run("A=kept")
        shell.interrupt()
        said, end = await shell.run("echo $A")
        assert (said.out, end.status) == (b"kept\n", "ok")

    with_shell(scene, tmp_path)


def test_a_program_in_the_background_goes_on_and_its_output_comes_with_the_next_cell(
    tmp_path: Path,
) -> None:
    async def scene(shell: Shell) -> None:
        go = tmp_path / "go"
        os.mkfifo(go)
        said, _ = await shell.run(
            f"(read -r x <{go}; echo late; yes | head -c 300000; echo done) &"
        )
        assert said.out == b""
        go.write_text("x\n")
        await shell.run("wait")
        said, _ = await shell.run("echo here")
        assert said.out == b"here\n"

    with_shell(scene, tmp_path)


def test_what_a_program_writes_into_the_pipes_of_the_engine_takes_it_nowhere(
    tmp_path: Path,
) -> None:
    async def scene(shell: Shell) -> None:
        forged = "for i in $(seq 500); do echo end $i 0; echo begin $i; echo; done"
        told = f"{tmp_path}/told-1"
        # More than the pipe holds: when all is written, what was forged has been read.
        forging = f"({forged}; head -c 100000 /dev/zero; echo) >{told}; touch {tmp_path}/forged"
        said, end = await shell.run(f"{forging}; (exit 4)")
        assert said.events[0] == ("started", {"executionCount": 1})
        await asyncio.to_thread(until, (tmp_path / "forged").exists)
        for _ in range(3):
            said, end = await shell.run("echo on; (exit 5)")
        assert (said.out, end.exit_code) == (b"on\n", 5)

    with_shell(scene, tmp_path)


def test_a_shell_that_is_gone_is_told_with_its_last_words(tmp_path: Path) -> None:
    async def scene(shell: Shell) -> None:
        said, task = shell.begin("echo last; exec sleep 60")
        await said.has(lambda: b"last" in said.out)
        shell.process.kill()
        await asyncio.to_thread(shell.process.wait)
        await shell.engine.died()
        with pytest.raises(Lost):
            await task
        with pytest.raises(Lost):
            await shell.run("echo never")

    with_shell(scene, tmp_path)


def test_no_program_inherits_a_pipe_of_the_engine(tmp_path: Path) -> None:
    async def scene(shell: Shell) -> None:
        listed = await shell.out(
            "ls -l /proc/self/fd | grep -c /told-\\|/orders-; ls /proc/self/fd"
        )
        assert listed.splitlines() == ["0", "0", "1", "2", "3"]
        assert await shell.out("cat; readlink /proc/self/fd/0") == "/dev/null\n"
        assert shell.own_words() == ""

    with_shell(scene, tmp_path)


def test_questions_are_answered_and_change_nothing(tmp_path: Path) -> None:
    async def scene(shell: Shell) -> None:
        await shell.run("hello_there() { :; }; HELLO_VAR=5; declare -a HELLO_LIST=(x y); mkdir sub")

        async def complete(code: str) -> Any:
            return await shell.engine.call("complete", {"code": code, "cursor": len(code)})

        found = await complete("true; hello_")
        assert found == {"matches": [{"text": "hello_there", "type": ""}], "start": 6, "end": 12}
        texts = [one["text"] for one in (await complete("echo $HELLO"))["matches"]]
        assert texts == ["$HELLO_LIST", "$HELLO_VAR"]
        assert [one["text"] for one in (await complete("ls su"))["matches"]] == ["sub/"]
        question = {"code": "hello_there x", "cursor": 3, "detail": 0}
        assert (
            "is a function" in (await shell.engine.call("inspect", question))["data"]["text/plain"]
        )
        missing = await shell.engine.call(
            "inspect", {"code": "no-such-x", "cursor": 3, "detail": 0}
        )
        assert missing == {"found": False, "data": {}}
        assert await shell.engine.call("variables", {}) == [
            {"name": "HELLO_LIST", "type": "array", "value": '([0]="x" [1]="y")', "size": [2]},
            {"name": "HELLO_VAR", "type": "string", "value": "5"},
        ]
        with pytest.raises(Unsupported):
            await shell.engine.call("adapt", {})
        said, end = await shell.run("echo on")
        assert (said.out, end.execution_count) == (b"on\n", 2)

    with_shell(scene, tmp_path)


def test_a_traced_shell_tells_nothing_of_what_is_between_cells(tmp_path: Path) -> None:
    async def scene(shell: Shell) -> None:
        await shell.run("set -x")
        said, _ = await shell.run("echo a")
        assert said.out == b"a\n"
        assert b"__sk_tell" not in said.err
        assert said.err.endswith(b"+ echo a\n")

    with_shell(scene, tmp_path)


def test_another_engine_goes_on_with_the_same_shell(tmp_path: Path) -> None:
    async def scene(shell: Shell) -> None:
        await shell.run("A=1")
        shell.engine.close()
        shell.engine = ShellEngine(shell.prepared.engine)
        await shell.engine.start()
        said, end = await shell.run("echo $A")
        assert (said.out, end.execution_count) == (b"1\n", 2)

    with_shell(scene, tmp_path)


def test_numbers_that_a_cell_makes_up_are_none_that_records_cannot_hold(tmp_path: Path) -> None:
    async def scene(shell: Shell) -> None:
        _, end = await shell.run(
            f'echo "end $__sk_on {"9" * 3000}" >"$__sk_place/told-$__sk_turn"; sleep 0.1'
        )
        assert (end.status, end.exit_code) == ("error", 255)
        assert await shell.out("echo on") == "on\n"

    with_shell(scene, tmp_path)


def test_what_is_no_pipe_is_not_opened(tmp_path: Path) -> None:
    async def scene() -> None:
        for name in ("orders", "told", "out", "err", "answer"):
            (tmp_path / f"{name}-1").write_text("")
        with pytest.raises(EngineFailed):
            await ShellEngine({"place": str(tmp_path), "generation": 1}).start()

    asyncio.run(scene())
