"""Starting, finding, listing and ending processes; the texts of errors; names, environments."""

import json
import os
import pwd
import re
import sys
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.harness import ALONE, FirstProcess, Server, alive, needs_root, over, until

KEYS = [
    "pid",
    "name",
    "command",
    "status",
    "startedAt",
    "completedAt",
    "exitCode",
    "workingDir",
    "logs",
    "stdout",
    "stderr",
    "restartOnFailure",
    "maxRestarts",
    "restartCount",
    "keepAlive",
]


def post(server: Server, body: object, **options):
    content = body if isinstance(body, bytes | str) else json.dumps(body)
    return server.client.post("/process", content=content, **options)


def error(reply) -> tuple[int, str]:
    assert reply.headers["content-type"] == "application/json; charset=utf-8"
    return reply.status_code, reply.json()["error"]


# The record


def test_a_fresh_process_answers_with_the_fields_in_the_contracts_order(server: Server) -> None:
    reply = post(server, {"name": "fresh", "command": "sleep 30"})
    made = reply.json()

    assert reply.status_code == 200
    assert list(made)[: len(KEYS)] == KEYS
    assert (made["name"], made["command"], made["status"]) == ("fresh", "sleep 30", "running")
    assert (made["exitCode"], made["completedAt"], made["workingDir"]) == (0, "", "")
    assert (made["logs"], made["stdout"], made["stderr"]) == ("", "", "")
    assert made["pid"] == str(int(made["pid"]))
    assert not reply.content.endswith(b"\n")
    by_pid = server.client.get(f"/process/{made['pid']}").json()
    assert by_pid == server.client.get("/process/fresh").json()
    server.client.delete("/process/fresh/kill")


def test_times_are_http_dates_in_utc(server: Server) -> None:
    before = int(time.time())
    made = server.run("true")

    for key in ("startedAt", "completedAt"):
        assert re.fullmatch(r"\w{3}, \d{2} \w{3} \d{4} \d{2}:\d{2}:\d{2} GMT", made[key])
        assert before <= parsedate_to_datetime(made[key]).timestamp() <= time.time()


def test_a_process_without_a_name_gets_one_of_eight_letters(server: Server) -> None:
    made = server.run("true")

    assert re.fullmatch(r"proc-[a-z0-9]{8}", made["name"])
    assert server.client.get(f"/process/{made['name']}").json()["pid"] == made["pid"]


def test_json_escapes_angle_brackets_and_ampersands_as_go_does(server: Server) -> None:
    reply = post(server, {"command": "echo '<a>&'", "waitForCompletion": True})

    assert b"\\u003ca\\u003e\\u0026" in reply.content
    assert reply.json()["stdout"] == "<a>&\n"


def test_the_record_says_how_it_ended_and_what_it_cost(make_server) -> None:
    server: Server = make_server(constants=ALONE)
    exited = server.run("echo 12345; printf 123 >&2; exit 7")
    killed = server.run("kill -KILL $$")

    assert (exited["exitReason"], exited["exitSignal"], exited["exitCode"]) == ("exited", "", 7)
    assert (exited["stdoutBytes"], exited["stderrBytes"], exited["lostBytes"]) == (6, 3, 0)
    assert exited["usage"]["cpuSeconds"] >= 0
    assert exited["usage"]["peakRssBytes"] is None  # less than the server's own
    large = server.run(f"exec {sys.executable} -c 'bytearray(b\"x\") * 150_000_000'")
    assert 150_000_000 < large["usage"]["peakRssBytes"] < 250_000_000
    assert (killed["status"], killed["exitCode"]) == ("failed", -1)
    assert (killed["exitReason"], killed["exitSignal"]) == ("signaled", "SIGKILL")


# Completion


@pytest.mark.parametrize(("code", "status"), [(0, "completed"), (42, "failed"), (255, "failed")])
def test_an_exit_code_decides_the_status_and_http_stays_200(
    server: Server, code: int, status: str
) -> None:
    made = server.run(f"echo hello world; exit {code}")

    assert (made["status"], made["exitCode"]) == (status, code)
    assert made["logs"] == made["stdout"] == "hello world\n"


def test_completion_is_the_shells_exit_and_background_children_do_not_delay_it(
    server: Server,
) -> None:
    began = time.monotonic()
    made = server.run("sleep 30 & echo started")

    assert time.monotonic() - began < 50
    assert (made["status"], made["stdout"]) == ("completed", "started\n")


def test_the_status_is_right_within_a_moment_of_the_exit(server: Server) -> None:
    made = post(server, {"command": "exit 3"}).json()

    seen = until(
        lambda: (
            (now := server.client.get(f"/process/{made['pid']}").json())["status"] != "running"
            and now
        )
    )
    assert (seen["status"], seen["exitCode"]) == ("failed", 3)


def test_signal_deaths_are_minus_one_and_failed(server: Server) -> None:
    made = server.run("kill -TERM $$")

    assert (made["status"], made["exitCode"], made["exitSignal"]) == ("failed", -1, "SIGTERM")


# The body


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "invalid request body: EOF"),
        (b"  ", "invalid request body: EOF"),
        (b"{", "invalid request body: "),
        (b"[]", "invalid request body: "),
        (b'"x"', "invalid request body: "),
        (b'{"command": 5}', "invalid request body: "),
        (b'{"command": "x", "env": {"A": 1}}', "invalid request body: "),
        (b'{"command": "x", "timeout": "5"}', "invalid request body: "),
        (b'{"command": "x", "waitForPorts": ["80"]}', "invalid request body: "),
        (b'{"command": "x", "keepAlive": 1}', "invalid request body: "),
        (b'{"command": "x", "maxRestarts": 99999999999999999999}', "invalid request body: "),
        (b"\xff\xfe", "invalid request body: "),
        (b"[" * 100_000, "invalid request body: "),
    ],
)
def test_a_body_that_cannot_be_read_is_a_400_with_the_contracts_prefix(
    server: Server, body: bytes, text: str
) -> None:
    status, said = error(post(server, body))

    assert status == 400
    assert said.startswith(text)


@pytest.mark.parametrize("body", [{}, {"command": ""}, {"command": None}, None])
def test_a_missing_command_has_the_validators_text(server: Server, body: object) -> None:
    assert error(post(server, body)) == (
        400,
        "invalid request body: Key: 'ProcessRequest.Command' Error:Field validation for "
        "'Command' failed on the 'required' tag",
    )


def test_bodies_are_read_as_leniently_as_the_reference_does(server: Server) -> None:
    text = (
        '{"COMMAND": "echo $A", "WaitForCompletion": true, "env": {"A": "b"}, "name": null, '
        '"timeout": null, "env": {"A": "c"}, "cwd": "/nowhere", "user": "%me%"} trailing {]'
    ).replace("%me%", pwd.getpwuid(os.geteuid()).pw_name)
    reply = post(server, text, headers={"Content-Type": "text/plain"})

    assert (reply.status_code, reply.json()["stdout"]) == (200, "c\n")


def test_a_body_past_the_limit_is_refused_and_costs_nothing(make_server) -> None:
    own: Server = make_server(env={"SANDKEEPER_MAX_JSON_BODY_BYTES": "1000"})

    def chunks():
        for _ in range(100):
            yield b"x" * 1000

    assert post(own, b"x" * 2000).status_code == 413
    assert own.client.post("/process", content=chunks()).status_code == 413
    assert post(own, {"command": "true"}).status_code == 200


def test_commands_that_no_kernel_takes_are_422(server: Server) -> None:
    for body in (
        {"command": "echo \0"},
        {"command": "true", "env": {"A": "\0"}},
        {"command": "x" * 3_000_000},
    ):
        status, said = error(post(server, body))
        assert (status, said.startswith("failed to start process: ")) == (422, True)


def test_a_variable_whose_name_holds_a_sign_is_passed_on(server: Server) -> None:
    made = server.run("env | grep ^SK_; echo $HOME", env={"SK_A=b": "c", "SK_D": "=e"})

    assert sorted(made["stdout"].splitlines()[:-1]) == ["SK_A=b=c", "SK_D==e"]


def test_a_failed_start_leaves_no_entry_and_no_folder(server: Server) -> None:
    for _ in range(20):
        post(server, {"name": "stillborn", "command": "true", "workingDir": "/no/such"})
        post(server, {"name": "stillborn", "argv": ["/no/such/program"]})

    assert server.client.get("/process/stillborn").status_code == 404
    known = len(server.client.get("/process").json())
    spares = 8  # made ahead for the next ones
    until(lambda: len(os.listdir(server.state / "runs")) <= known + spares)


# Names and identifiers


NAMES = [
    "../../etc/x",
    "a/b",
    "a b",
    "ünï→☃",
    "100%",
    "a%2Fb",
    "?x=1#y",
    "..",
    ".",
    "logs",
    "a\nb",
    "x" * 4000,
    "'; rm -rf /; '",
    "a\\b",
    "a+b",
    "<script>",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_echoed_found_and_never_a_path(server: Server, name: str) -> None:
    made = server.run("echo hi", name=name)
    path = "/process/" + quote(name, safe="").replace(".", "%2E")

    assert made["name"] == name
    assert server.client.get(path).json()["pid"] == made["pid"]
    assert server.client.get(path + "/logs").json()["stdout"] == "hi\n"
    assert server.client.get(path + "/logs/stream").text == "stdout:hi\n"
    assert server.client.get(path + "/wait?timeout=1").json()["status"] == "completed"
    assert not Path("/etc/x.log").exists()
    assert all(re.fullmatch("[0-9a-z]{26}", item) for item in os.listdir(server.state / "runs"))


def test_names_that_only_look_alike_are_different_processes(server: Server) -> None:
    server.run("echo one", name="x")
    server.run("echo two", name="x.stdout")

    assert server.client.get("/process/x").json()["stdout"] == "one\n"
    assert server.client.get("/process/x.stdout").json()["stdout"] == "two\n"


def test_an_all_digit_name_is_found_where_no_process_has_that_pid(server: Server) -> None:
    server.run("true", name="99999999")

    assert server.client.get("/process/99999999").status_code == 200
    assert server.client.get("/process/+99999999").status_code == 404


def test_digits_that_do_not_fit_a_go_int_are_a_name(server: Server) -> None:
    server.run("true", name="9" * 25)

    assert server.client.get("/process/" + "9" * 25).status_code == 200


def test_a_name_is_unique_among_running_processes_only(server: Server) -> None:
    first = server.run("echo first", name="twice")
    second = post(server, {"name": "twice", "command": "echo second; sleep 30"}).json()
    refused = post(server, {"name": "twice", "command": "true"})

    assert error(refused) == (400, "process with name 'twice' already exists and is running")
    until(lambda: server.client.get("/process/twice").json()["stdout"] == "second\n")
    assert server.client.get("/process/twice").json()["pid"] == second["pid"]
    assert server.client.get(f"/process/{first['pid']}").json()["stdout"] == "first\n"
    assert server.client.get(f"/process/{first['pid']}/logs").json()["logs"] == "first\n"
    server.client.delete("/process/twice/kill")


def test_of_many_racers_for_one_name_exactly_one_wins(server: Server) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(16) as pool:
        replies = list(
            pool.map(
                lambda _: post(server, {"name": "race", "command": "sleep 30"}).status_code,
                range(16),
            )
        )

    assert sorted(replies) == [200] + [400] * 15
    server.client.delete("/process/race/kill")


# Unknown ones


@pytest.mark.parametrize(
    ("method", "path", "text"),
    [
        ("GET", "/process/nobody", "process not found"),
        ("GET", "/process/nobody/logs", "process with PID nobody not found"),
        ("GET", "/process/nobody/logs/stream", "process with Identifier nobody not found"),
        ("DELETE", "/process/nobody", "process with Identifier nobody not found"),
        ("DELETE", "/process/nobody/kill", "process with Identifier nobody not found"),
        ("GET", "/process/nobody/wait", "process with Identifier nobody not found"),
        ("POST", "/process/nobody/stdin", "process with Identifier nobody not found"),
        ("DELETE", "/process/nobody/stdin", "process with Identifier nobody not found"),
        ("GET", "/process/nobody/events", "process with Identifier nobody not found"),
        ("GET", "/process/nobody/lines", "process with Identifier nobody not found"),
    ],
)
def test_unknown_processes_have_the_contracts_texts(
    server: Server, method: str, path: str, text: str
) -> None:
    assert error(server.client.request(method, path)) == (404, text)


@pytest.mark.parametrize("tail", ["", "/x", "/x/logs", "/x/logs/stream"])
def test_head_is_an_empty_200_that_looks_nothing_up(server: Server, tail: str) -> None:
    reply = server.client.head("/process" + tail)

    assert (reply.status_code, reply.content) == (200, b"")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("HEAD", "/process/x/wait"),
        ("PUT", "/process"),
        ("PATCH", "/process/x"),
        ("POST", "/process/x"),
        ("GET", "/process/x/kill"),
        ("GET", "/process/x/stdin"),
        ("GET", "/process/x/nothing"),
    ],
)
def test_wrong_methods_are_unknown_routes(server: Server, method: str, path: str) -> None:
    reply = server.client.request(method, path)

    assert reply.status_code == 404
    assert reply.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(("method", "status"), [("GET", 301), ("POST", 307), ("DELETE", 307)])
def test_a_trailing_slash_redirects(server: Server, method: str, status: int) -> None:
    path = "/process/x/" if method == "DELETE" else "/process/"
    reply = server.client.request(method, path)

    assert (reply.status_code, reply.headers["location"]) == (status, path[:-1])


# Working directories


def test_a_working_directory_is_entered_and_echoed(server: Server) -> None:
    made = server.run("pwd", workingDir="/tmp")

    assert (made["stdout"], made["workingDir"]) == ("/tmp\n", "/tmp")


@pytest.mark.parametrize("folder", ["/no/such/folder", "relative/missing"])
def test_a_missing_working_directory_is_named(server: Server, folder: str) -> None:
    reply = post(server, {"command": "echo hi", "workingDir": folder})

    assert error(reply) == (
        422,
        f"failed to start process: could not execute command 'echo hi' because folder '{folder}' "
        "does not exist",
    )


def test_a_working_directory_that_is_none_is_told(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    status, said = error(post(server, {"command": "true", "workingDir": str(file)}))

    assert status == 422
    assert said.startswith(
        f"failed to start process: could not access working directory '{file}': "
    )
    assert error(post(server, {"command": "true", "workingDir": "/a\0b"}))[0] == 422


def test_double_slashes_collapse_and_relative_folders_start_at_the_servers(
    server: Server, tmp_path: Path
) -> None:
    assert server.run("pwd", workingDir="//tmp///")["workingDir"] == "/tmp/"
    made = server.run("pwd", workingDir="tests")
    assert made["workingDir"] == "tests"
    assert made["stdout"].endswith("/tests\n")


def test_a_leading_tilde_is_the_home_folder_textually(make_server, tmp_path: Path) -> None:
    (tmp_path / "home" / "sub").mkdir(parents=True)
    (tmp_path / "homebob").mkdir()
    home = str(tmp_path / "home")
    own: Server = make_server(env={"HOME": home})

    assert own.run("pwd", workingDir="~")["stdout"] == f"{home}\n"
    assert own.run("pwd", workingDir="~/sub")["stdout"] == f"{home}/sub\n"
    assert own.run("pwd", workingDir="~bob")["stdout"] == f"{home}bob\n"
    made = post(own, {"command": "true", "workingDir": "/tmp/~"})
    assert made.status_code == 422


def test_a_tilde_without_a_home_is_a_400(make_server) -> None:
    own: Server = make_server(env={"HOME": ""})

    assert error(post(own, {"command": "true", "workingDir": "~/x"})) == (
        400,
        "home directory not found",
    )


# Environment and shell


def test_the_environment_is_the_servers_with_the_requests_over_it(make_server) -> None:
    own: Server = make_server(env={"KEPT": "kept", "COVERED": "old"})
    env = {"COVERED": "new", "PATH": "/my/bin", "HOME": "/my/home", "EMPTY": ""}
    made = own.run("/usr/bin/env", env=env)
    lines = made["stdout"].splitlines()
    names = [line.partition("=")[0] for line in lines]

    for expected in ("KEPT=kept", "COVERED=new", "PATH=/my/bin", "HOME=/my/home", "EMPTY="):
        assert expected in lines
    assert len(names) == len(set(names))


def test_shell_and_its_arguments_come_from_the_servers_environment(make_server) -> None:
    own: Server = make_server(env={"SHELL": "/bin/bash", "SHELL_ARGS": " -e   -c "})
    made = own.run("false; echo not reached")
    plain: Server = make_server(env={"SHELL": "", "SHELL_ARGS": ""})

    assert (made["exitCode"], made["stdout"]) == (1, "")
    assert plain.run("echo $0")["stdout"] == "sh\n"


def test_a_request_cannot_choose_the_shell(server: Server) -> None:
    assert server.run("echo $BASH", env={"SHELL": "/bin/false"})["exitCode"] == 0


def test_a_missing_shell_is_a_422(make_server) -> None:
    own: Server = make_server(env={"SHELL": "/no/such/shell"})
    status, said = error(post(own, {"command": "true"}))

    assert (status, "/no/such/shell" in said) == (422, True)
    assert said.startswith("failed to start process: ")


@pytest.mark.parametrize(
    "command",
    [
        "cd /tmp && test $PWD = /tmp",
        "export A=1; test $A = 1",
        "shopt -s expand_aliases\nalias hi='echo hi'\nhi",
        "echo 'B=2' > $TMPDIR/f; source $TMPDIR/f; test $B = 2",
        "type cd",
        "f() { return 0; }; f",
        "test $(echo a)b = ab",
        "ls /et*/hostname",
        "true & wait",
        "test \"a 'b' c\" = \"a 'b' c\"",
    ],
)
def test_builtins_and_shell_syntax_work(server: Server, tmp_path: Path, command: str) -> None:
    made = server.run(command, env={"TMPDIR": str(tmp_path)})

    assert made["exitCode"] == 0, made


def test_standard_input_is_dev_null_and_the_group_is_its_own(server: Server) -> None:
    made = server.run(
        "readlink /proc/self/fd/0; ps -o pgid=,sid= -p $$; cat /proc/$$/oom_score_adj"
    )
    stdin, ids, score = made["stdout"].splitlines()
    group, session = ids.split()

    assert stdin == "/dev/null"
    assert group == made["pid"]
    assert session != made["pid"]
    assert score == "500"


def test_the_first_grandchild_already_has_the_childs_oom_score(server: Server) -> None:
    made = server.run("(cat /proc/self/oom_score_adj)")

    assert made["stdout"] == "500\n"


# Ending


def test_stop_and_kill_end_the_whole_group_promptly(server: Server) -> None:
    for verb, path, status in (("stopped", "", "stopped"), ("killed", "/kill", "killed")):
        made = post(server, {"command": "sleep 60 & sleep 60 & echo $!; wait"}).json()
        url = f"/process/{made['pid']}"
        grandchild = int(until(lambda u=url: server.client.get(u).json()["stdout"].strip()))
        began = time.monotonic()
        reply = server.client.delete(url + path)
        ended = until(
            lambda u=url: (now := server.client.get(u).json())["status"] != "running" and now
        )

        assert time.monotonic() - began < 50
        assert reply.json() == {"message": f"Process {verb} successfully"}
        assert (ended["status"], ended["exitCode"]) == (status, -1)
        until(lambda g=grandchild: not alive(g))


def test_right_after_a_stop_or_kill_it_is_not_running_any_more(make_server) -> None:
    # So long the answer waits for the end; a busy machine takes more than the usual 90 ms.
    constants = {"sandkeeper.api.blaxel.processes.STOP_GRACE_SECONDS": 50.0}
    server: Server = make_server(constants=constants)
    for path, status in (("", "stopped"), ("/kill", "killed")):
        made = post(server, {"command": "exec sleep 60"}).json()
        server.client.delete(f"/process/{made['name']}{path}")

        assert server.client.get(f"/process/{made['name']}").json()["status"] == status


def test_a_trapped_term_that_exits_zero_is_completed(server: Server) -> None:
    body = {"command": "trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done"}
    made = post(server, body).json()
    until(lambda: server.client.get(f"/process/{made['pid']}").json()["stdout"])
    server.client.delete(f"/process/{made['pid']}")

    assert over(server, made["pid"])["status"] == "completed"


def test_a_trapped_term_that_exits_otherwise_is_stopped_with_that_code(server: Server) -> None:
    body = {"command": "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done"}
    made = post(server, body).json()
    until(lambda: server.client.get(f"/process/{made['pid']}").json()["stdout"])
    server.client.delete(f"/process/{made['pid']}")
    ended = over(server, made["pid"])

    assert (ended["status"], ended["exitCode"], ended["exitReason"]) == ("stopped", 9, "stopped")


def test_who_ignores_term_is_running_can_be_stopped_again_and_killed(server: Server) -> None:
    body = {"name": "deaf", "command": "trap '' TERM; echo ready; while :; do sleep 0.01; done"}
    post(server, body)
    until(lambda: server.client.get("/process/deaf").json()["stdout"])

    assert server.client.delete("/process/deaf").status_code == 200
    assert server.client.get("/process/deaf").json()["status"] == "running"
    assert server.client.delete("/process/deaf").status_code == 200
    assert post(server, body).status_code == 400
    assert server.client.delete("/process/deaf/kill").status_code == 200
    assert over(server, "deaf")["status"] == "killed"


def test_who_is_over_can_neither_be_stopped_nor_killed(server: Server) -> None:
    server.run("true", name="over")

    assert error(server.client.delete("/process/over")) == (
        404,
        "process with Identifier over is not running",
    )
    assert error(server.client.delete("/process/over/kill")) == (
        404,
        "failed to kill process with Identifier over: no such process",
    )
    assert server.client.get("/process/over").json()["status"] == "completed"


def test_a_kill_after_the_end_does_not_reach_surviving_children(server: Server) -> None:
    made = server.run("sleep 1000 >/dev/null 2>&1 & echo $!")
    survivor = int(made["stdout"])
    server.client.delete(f"/process/{made['pid']}/kill")

    assert server.client.get(f"/process/{made['pid']}").json()["status"] == "completed"
    assert os.path.exists(f"/proc/{survivor}")
    os.kill(survivor, 9)


def test_signals_go_to_the_group_by_name_or_number(server: Server) -> None:
    body = {
        "name": "signalled",
        "command": "trap 'echo hup' HUP; trap 'echo usr' USR1; echo ready; "
        "while :; do sleep 0.01; done",
    }
    post(server, body)
    until(lambda: server.client.get("/process/signalled").json()["stdout"])
    for word in ("SIGHUP", "usr1", 1):
        reply = server.client.post("/process/signalled/signal", json={"signal": word})
        assert reply.status_code == 200
        until(
            lambda w=word: (
                ("usr" if w == "usr1" else "hup")
                in server.client.get("/process/signalled").json()["stdout"]
            )
        )
    refused = server.client.post("/process/signalled/signal", json={"signal": "SIGNOPE"})
    server.client.post("/process/signalled/signal", json={"signal": "KILL"})

    assert error(refused)[0] == 400
    assert over(server, "signalled")["status"] == "killed"
    late = server.client.post("/process/signalled/signal", json={"signal": "HUP"})
    assert error(late) == (404, "process with Identifier signalled is not running")


# The list


def test_the_list_has_finished_and_running_ones_once_each(make_server) -> None:
    own: Server = make_server()
    assert own.client.get("/process").content == b"[]"
    own.run("echo done", name="one")
    post(own, {"name": "two", "command": "sleep 30"})

    listed = own.client.get("/process").json()

    assert [(item["name"], item["status"]) for item in listed] == [
        ("one", "completed"),
        ("two", "running"),
    ]
    assert listed[0]["logs"] == listed[0]["stdout"] == "done\n"
    assert listed[1]["completedAt"] == ""
    own.client.delete("/process/two/kill")


def test_the_list_stays_small_however_much_was_written(make_server) -> None:
    own: Server = make_server()
    for _ in range(3):
        own.run("head -c 300000 /dev/zero | tr '\\0' x")

    reply = own.client.get("/process")

    assert len(reply.content) < 3 * 2 * 70_000
    for item in reply.json():
        assert item["stdout"].startswith("[... truncated, see the process log file")


# Streaming exec


def records(reply) -> list[dict]:
    assert reply.content.endswith(b"\n")
    found = [json.loads(line) for line in reply.content.split(b"\n")[:-1]]
    # A busy machine may be silent for long.
    return [one for one in found if one["type"] != "keepalive"]


@pytest.mark.parametrize(
    "accept", ["text/event-stream", "application/json, text/event-stream", "application/x-ndjson"]
)
def test_exec_streams_ndjson_when_asked(server: Server, accept: str) -> None:
    command = "echo out; sleep 0.02; echo err >&2; exit 42"
    body = {"name": "nd", "command": command, "waitForCompletion": False}
    reply = post(server, body, headers={"Accept": accept})
    *events, last = records(reply)
    result = json.loads(last["data"])

    assert reply.headers["content-type"] == "application/x-ndjson"
    assert reply.headers["x-accel-buffering"] == "no"
    assert reply.headers["cache-control"] == "no-cache"
    assert events == [{"type": "stdout", "data": "out\n"}, {"type": "stderr", "data": "err\n"}]
    assert last["type"] == "result"
    assert (result["status"], result["exitCode"], result["name"]) == ("failed", 42, "nd")
    assert (result["stdout"], result["stderr"]) == ("out\n", "err\n")
    assert result["logs"] == "out\nerr\n"


def test_without_that_accept_the_answer_stays_json(server: Server) -> None:
    reply = post(server, {"command": "true", "waitForCompletion": True}, headers={"Accept": "*/*"})

    assert reply.headers["content-type"] == "application/json; charset=utf-8"


def test_a_streamed_silent_process_has_only_its_result(server: Server) -> None:
    reply = post(server, {"command": "true"}, headers={"Accept": "text/event-stream"})

    assert [item["type"] for item in records(reply)] == ["result"]


def test_a_streamed_start_that_fails_is_one_error_event(server: Server) -> None:
    stream = {"Accept": "text/event-stream"}
    folder = post(server, {"command": "true", "workingDir": "/no/such"}, headers=stream)
    ports = post(server, {"command": "true", "waitForPorts": [1]}, headers=stream)

    for reply in (folder, ports):
        assert (reply.status_code, [item["type"] for item in records(reply)]) == (200, ["error"])
        assert records(reply)[0]["data"].startswith("failed to start process: ")


def test_streamed_pre_flight_errors_are_ordinary_json(server: Server) -> None:
    reply = post(server, {"command": ""}, headers={"Accept": "text/event-stream"})

    assert error(reply)[0] == 400


def test_a_streamed_character_is_never_split(server: Server) -> None:
    command = "printf '\\xe2'; sleep 0.05; printf '\\x98'; sleep 0.05; printf '\\x83|\\xff'"
    reply = post(server, {"command": command}, headers={"Accept": "text/event-stream"})
    text = "".join(item["data"] for item in records(reply) if item["type"] == "stdout")

    assert text == "☃|\N{REPLACEMENT CHARACTER}"


def test_a_streamed_exec_follows_over_restarts_to_the_final_end(server: Server) -> None:
    body = {"command": "echo run; exit 5", "restartOnFailure": True, "maxRestarts": 1}
    *events, last = records(post(server, body, headers={"Accept": "text/event-stream"}))
    result = json.loads(last["data"])

    text = "".join(item["data"] for item in events)
    notice = "\n[Process failed with exit code 5. Attempting restart 1/1...]\n"
    assert text == f"run\n{notice}run\n"
    assert (result["status"], result["restartCount"]) == ("failed", 1)


def with_pid(server: Server, pid: int, body: dict) -> dict:
    """Start a process that gets a given free pid of the server's own namespace."""
    for _ in range(20):  # a helper of the server's may start between the two
        server.run(f"echo {pid - 1} >/proc/sys/kernel/ns_last_pid")
        made = post(server, body).json()
        if made["pid"] == str(pid):
            return made
        server.client.delete(f"/process/{made['pid']}/kill")
    raise AssertionError(f"pid {pid} could not be had")


@needs_root
def test_a_reused_pid_replaces_no_entry_and_old_names_never_reach_the_new_process(
    tmp_path: Path,
) -> None:
    with FirstProcess(tmp_path) as own:
        reuses_a_pid(own)


def reuses_a_pid(server: Server) -> None:
    old = server.run("echo old; exit 7", name="first-of-its-pid")
    new = with_pid(server, int(old["pid"]), {"command": "echo new; exec sleep 60"})
    url = f"/process/{new['pid']}"
    until(lambda: server.client.get(url).json()["stdout"] == "new\n")

    for path in ("", "/kill"):
        assert server.client.delete(f"/process/first-of-its-pid{path}").status_code == 404
    seen = server.client.get("/process/first-of-its-pid").json()
    assert (seen["id"], seen["stdout"], seen["exitCode"]) == (old["id"], "old\n", 7)
    listed = [item["id"] for item in server.client.get("/process").json()]
    assert {old["id"], new["id"]} <= set(listed)
    assert server.client.get(url).json()["status"] == "running"
    assert server.client.delete(url).status_code == 200
    assert over(server, new["pid"])["status"] == "stopped"
