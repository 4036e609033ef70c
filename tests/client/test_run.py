"""`run`, `attach`, `logs`, `ps` and their like."""

import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pexpect
import pytest
from tests.client.conftest import Ask
from tests.client.verbs import COMMAND, begin
from tests.harness import Server, over, start, until


def test_both_streams_arrive_apart_byte_for_byte_with_the_exit_status(ask: Ask) -> None:
    done = ask("run", "--", "sh", "-c", r"printf '\377\0a\r\n'; printf 'no\n' >&2; exit 7")

    assert done.stdout == b"\xff\0a\r\n"
    assert done.stderr == b"no\n"
    assert done.returncode == 7


def test_a_command_is_its_words_and_no_shell_reads_them(ask: Ask) -> None:
    done = ask("run", "--", "printf", "%s|", "a b", "$HOME", "*", "'")

    assert done.stdout == b"a b|$HOME|*|'|"


@pytest.mark.parametrize(
    ("program", "status"), [("no-such-program", 127), ("/etc/passwd", 126), ("empty", 126)]
)
def test_what_cannot_be_started_has_the_shells_number(
    ask: Ask, tmp_path: Path, program: str, status: int
) -> None:
    if program == "empty":
        program = str(tmp_path / program)
        Path(program).touch(mode=0o755)
    done = ask("run", "--", program)

    assert done.returncode == status
    assert done.stderr.startswith(b"sandkeeper: ")
    assert b"Traceback" not in done.stderr


def test_standard_input_is_fed_to_its_end(ask: Ask) -> None:
    data = os.urandom(3 << 20)

    assert ask("run", "-i", "--", "cat", stdin=data).stdout == data


def test_options_reach_the_process(ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "variables"
    file.write_text("# more\nA=1\nB=2\n")

    script = "echo $A $B $OWN ${NONE-none} $1; pwd"
    words = ["--env-file", str(file), "-e", "B=3", "-e", "OWN", "-e", "NONE", "-w", "/usr"]
    # As with docker, what follows the command is its own, also without a `--`.
    done = ask("run", *words, "sh", "-c", script, "sh", "-d", env={"OWN": "mine"})

    assert done.stdout == b"1 3 mine none -d\n/usr\n", done.stderr


def test_a_detached_one_is_named_and_waited_for(ask: Ask) -> None:
    name = ask("run", "-d", "--", "sh", "-c", "read x; exit 4").stdout.decode().strip()
    done = ask("wait", name)

    assert (done.stdout, done.returncode) == (b"4\n", 4)


def test_logs_are_what_was_written_where_it_was_written(ask: Ask, server: Server) -> None:
    identifier = start(server, "echo one; echo two >&2; printf three")["id"]
    over(server, identifier)

    done = ask("logs", identifier)
    assert (done.stdout, done.stderr) == (b"one\nthree", b"two\n")
    assert ask("logs", "--stderr", identifier).stdout == b""
    assert ask("logs", "--tail", "1", "--stdout", identifier).stdout == b"three"
    none, every = ask("logs", "-n", "0", identifier), ask("logs", "-n", "all", identifier)
    assert (none.stdout, none.stderr, none.returncode) == (b"", b"", 0)
    assert every.stdout == done.stdout
    assert b"nobody: process not found" in ask("logs", "nobody").stderr
    assert ask("logs", "--grep", "^o", identifier).stdout == b"one\n"
    assert ask("logs", "--until", "1h", identifier).stdout == b""
    assert ask("logs", "--since", "1h", identifier).stdout == b"one\nthree"
    told = [json.loads(line) for line in ask("logs", "--json", identifier).stdout.splitlines()]
    assert sorted((one["stream"], one["text"]) for one in told) == [
        *(("stderr", "two"), ("stdout", "one"), ("stdout", "three"))
    ]
    stamped = ask("logs", "-t", "--stdout", identifier).stdout.split(b"\n")[0]
    assert stamped.endswith(b" one")
    assert stamped[4:5] == b"-"


def test_logs_of_a_running_one_end_where_its_output_stands(ask: Ask, server: Server) -> None:
    identifier = start(server, "echo begun; exec sleep 1000")["id"]
    until(lambda: server.client.get(f"/process/{identifier}").json()["stdoutBytes"])

    assert ask("logs", identifier).stdout == b"begun\n"
    assert ask("kill", identifier).returncode == 0
    assert ask("logs", "-f", identifier).stdout == b"begun\n"


def test_several_are_ended_and_each_failure_is_told(ask: Ask, server: Server) -> None:
    ids = [start(server, "exec sleep 1000")["id"] for _ in range(2)]

    done = ask("stop", ids[0], "nobody", ids[1])

    assert done.returncode == 1
    assert done.stdout.decode().split() == ids
    assert done.stderr.startswith(b"sandkeeper: nobody: ")
    assert {over(server, one)["status"] for one in ids} == {"stopped"}


def test_lists_are_plain_in_a_pipe_and_json_when_asked(ask: Ask, server: Server) -> None:
    made = start(server, "exec sleep 1000 # \033[31m", name="listed")

    plain = ask("ps").stdout.decode()
    line = next(line for line in plain.splitlines() if made["id"] in line)
    assert "\033" not in plain
    assert "listed" in line
    assert "\\x1b[31m" in line
    found = json.loads(ask("ps", "--json").stdout)
    assert made["id"] in {one["id"] for one in found}
    ask("kill", made["id"])
    over(server, made["id"])
    assert made["id"] not in ask("ps", "-q").stdout.decode()
    assert made["id"] in ask("ps", "-aq").stdout.decode()


def test_whoever_waits_for_a_line_or_a_port_goes_on_when_it_is_there(
    ask: Ask, server: Server
) -> None:
    identifier = start(server, "echo ready; exec sleep 1000")["id"]

    assert ask("wait", "--line", "ready", identifier).returncode == 0
    late = ask("wait", "--line", "never", "-t", "0", identifier)
    assert late.returncode == 1
    ask("kill", identifier)


def test_an_interrupt_goes_to_the_command_and_a_second_one_leaves_it(
    terminal: "type[pexpect.spawn]",
) -> None:
    script = "trap 'echo heard' INT; echo ready; while :; do sleep 0.05; done"
    child = terminal("run", "--", "sh", "-c", script)
    child.expect("ready")
    child.sendintr()
    child.expect("heard")
    child.sendintr()
    child.expect("left; it goes on: sandkeeper attach ([a-z0-9]+)")
    identifier = child.match[1]
    child.expect(pexpect.EOF)
    child.close()

    assert child.exitstatus == 130
    killed = terminal("kill", identifier)
    killed.expect(identifier)


def test_what_ended_a_program_is_told_and_a_signal_is_128_and_its_number(
    ask: Ask, server: Server
) -> None:
    late = ask("run", "--name", "late", "--timeout", "1", "--", "sleep", "1000")
    env = {**server.env, "SANDKEEPER_URL": server.url}
    argv = [*COMMAND, "run", "--", "sh", "-c", "echo $$; exec sleep 1000"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        server.client.delete(f"/process/{child.stdout.readline().decode().strip()}")

        assert child.wait(60) == 143
        assert b"stopped on request" in child.stderr.read()
    assert (late.returncode, late.stdout) == (137, b"")
    assert b"its time (--timeout) was over" in late.stderr
    itself = ask("run", "--", "sh", "-c", "kill -USR1 $$")
    assert (itself.returncode, itself.stderr) == (
        138,
        b"sandkeeper: it was ended by SIGUSR1 (exit status 138)\n",
    )
    (record,) = json.loads(ask("wait", "--json", "late").stdout)
    assert record["exitReason"] == "timeout"
    assert json.loads(ask("health", "--json").stdout)["status"] == "ok"


def test_a_reader_that_goes_away_ends_the_client_and_not_the_command(server: Server) -> None:
    env = {**server.env, "SANDKEEPER_URL": server.url}
    with begin("run", "--name", "flood", "--", "yes", env=env) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.read(2)
        child.stdout.close()

        assert child.wait(60) == 141
        assert b"nobody reads any more" in child.stderr.read()
    assert server.client.get("/process/flood").json()["status"] == "running"
    server.client.delete("/process/flood/kill")


def test_a_fast_program_waits_for_whoever_runs_it_and_for_nobody_who_has_left(
    make_server, tmp_path: Path
) -> None:
    server = make_server(env={"SANDBOX_MAX_LOG_FILE_BYTES": str(1 << 20)})
    data = os.urandom(16 << 20)
    (tmp_path / "data").write_bytes(data)
    env = {**server.env, "SANDKEEPER_URL": server.url}
    with begin("run", "--", "cat", str(tmp_path / "data"), env=env) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        parts = []
        while part := child.stdout.read(100_000):
            parts.append(part)
        assert child.wait(60) == 0
        assert child.stderr.read() == b""
    assert b"".join(parts) == data

    with begin("run", "--name", "left", "--", "cat", str(tmp_path / "data"), env=env) as child:
        assert child.stdout is not None
        child.stdout.read(2)
        child.stdout.close()
        assert child.wait(60) == 141
    assert over(server, "left")["stdoutBytes"] == len(data)


def test_a_server_that_is_killed_and_started_again_costs_no_line(make_server) -> None:
    server = make_server()
    env = {**server.env, "SANDKEEPER_URL": server.url}
    script = "i=0; while [ $i -lt 100 ]; do echo $i; i=$((i+1)); sleep 0.02; done; exit 6"
    with begin("run", "--", "sh", "-c", script, env=env) as child:
        assert child.stdout is not None
        head = child.stdout.read(20)
        server.kill9()
        server.restart()
        rest = child.stdout.read()

        assert child.wait(60) == 6
    assert head + rest == b"".join(b"%d\n" % number for number in range(100))


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["ps"], 3, b"nothing listens there"),
        (["--url", "ftp://x", "ps"], 1, b"no address of a server"),
        (["no-such-verb"], 2, b"No such command"),
        (["logs"], 2, b"Missing argument"),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_a_status(
    ask: Ask, words: list[str], status: int, said: bytes
) -> None:
    done = ask(*words, url="http://127.0.0.1:1")

    assert done.returncode == status
    assert said in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_wrong_token_and_another_program_are_told_apart(ask: Ask, make_server) -> None:
    server = make_server(env={"SANDKEEPER_TOKEN": "secret"})

    assert ask("ps", url=server.url, env={"SANDKEEPER_TOKEN": "wrong"}).returncode == 4
    assert b"give --token" in ask("ps", url=server.url, env={"SANDKEEPER_TOKEN": ""}).stderr
    assert ask("--token", "secret", "ps", url=server.url).returncode == 0
    assert ask("ps", "--token", "secret", url=server.url).returncode == 0


def test_processes_are_started_again_removed_and_pruned(ask: Ask, server: Server) -> None:
    made = start(server, "exec sleep 1000", name="cycled")

    done = ask("restart", "cycled", "nobody")
    again = done.stdout.decode().strip()
    assert done.returncode == 1
    assert again != made["id"]
    assert ask("rm", "cycled").returncode == 1
    assert ask("rm", "-f", "cycled", "nobody").stdout.decode().split() == [again]
    pruned = ask("prune", "--yes")

    assert made["id"] in pruned.stdout.decode().split()
    left = server.client.get("/process").json()
    assert not [one for one in left if one["status"] != "running"]


def test_a_port_has_an_address_that_works_in_a_browser(ask: Ask, make_server) -> None:
    server = make_server(env={"SANDKEEPER_TOKEN": "secret"})
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]

    said = ask("--token", "secret", "open", str(port), "--path", "/page?x=1", url=server.url)
    url = urlsplit(said.stdout.decode().strip())
    with httpx.Client(trust_env=False) as visitor:
        visit = f"{server.url}{url.path}?{url.query}"
        answer = visitor.get(visit, headers={"Host": url.netloc, "Sec-Fetch-Mode": "navigate"})

    listening.close()
    assert url.hostname == f"{port}.localhost"
    assert answer.status_code == 303
    assert answer.headers["location"].endswith("/page?x=1")
    assert "sandkeeper_port" in answer.headers["set-cookie"]


def test_an_interrupt_before_the_process_is_known_waits_for_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sandkeeper.client import running
    from sandkeeper.client.connection import Server as Asked
    from sandkeeper.client.running import Left, Passing

    made = start(server, "exec sleep 1000")
    monkeypatch.setattr(running, "ONE_PRESS_SECONDS", 3600.0)
    with pytest.raises(Left), Passing(Asked(server.url)) as passing:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # `timeout` sends one to the program and its group
        passing.begin(made["id"])
        monkeypatch.setattr(running, "ONE_PRESS_SECONDS", 0.0)
        os.kill(os.getpid(), signal.SIGINT)

    assert over(server, made["id"])["exitSignal"] == "SIGINT"


def test_what_a_shell_had_it_ignore_stays_ignored(server: Server) -> None:
    env = {**server.env, "SANDKEEPER_URL": server.url}
    argv = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *COMMAND]
    words = ["run", "--name", "hung-up", "--", "sh", "-c", "echo up; read x < /dev/null; sleep 0.2"]
    with subprocess.Popen([*argv, *words], stdout=subprocess.PIPE, env=env) as child:
        assert child.stdout is not None
        assert child.stdout.read(3) == b"up\n"
        child.send_signal(signal.SIGHUP)

        assert child.wait(60) == 0
