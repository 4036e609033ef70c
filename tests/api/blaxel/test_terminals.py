"""Terminals over the WebSocket: what a person at the other end sees, and how it ends."""

import json
import os
import socket
from contextlib import suppress
from pathlib import Path

import pytest
from tests.harness import Server, children_of, until
from tests.person import Person
from websockets.exceptions import ConnectionClosed, InvalidStatus


def audit(server: Server, action: str) -> list[dict]:
    return [line for line in server.log_lines() if line.get("action") == action]


def members_of(leader: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(stat[3]) == leader and stat[0] != "Z":
                found.append(int(entry))
    return found


def test_what_is_typed_runs_in_a_real_terminal(server: Server) -> None:
    with Person(server, sessionId="real", cols=91, rows=17) as person:
        person.ready()
        person.type("tty; stty size; echo $TERM; echo $((6*7))\r")
        shown = person.see("42\r\n")

    assert "/dev/pts/" in shown
    assert "17 91" in shown
    assert "xterm-256color" in shown or os.environ.get("TERM", "") in shown


def test_exit_closes_the_socket_at_once_after_the_last_output(server: Server) -> None:
    with Person(server, sessionId="exit") as person:
        person.ready()
        person.type("seq 1 20000; echo la''st; exit 3\r")

        assert person.to_the_end() == (1000, "Shell exited")

    assert person.shown.replace("\r", "").find("\n19999\n20000\nlast\n") > 0
    record = server.client.get("/terminals/exit").json()
    assert (record["status"], record["exitCode"]) == ("exited", 3)


def test_a_name_whose_shell_has_exited_gets_a_fresh_shell(server: Server) -> None:
    with Person(server, sessionId="again") as person:
        person.type("here=1; exit\r")
        person.to_the_end()
    with Person(server, sessionId="again") as person:
        person.ready()
        person.type("echo [$here]\r")
        person.see("[]\r\n")


def test_a_character_is_never_split(server: Server) -> None:
    with Person(server, sessionId="utf8") as person:
        person.ready()
        person.type("for i in $(seq 3000); do printf 'é漢🙂'; done; echo; echo do''ne\r")
        shown = person.see("done\r\n")

    assert "�" not in shown
    assert shown.count("é漢🙂") >= 3000


def test_a_screen_keeps_every_character_of_what_was_written(server: Server, tmp_path: Path) -> None:
    text = "हिन्दी \u1112\u1161\u11ab 👨‍👩‍👧 می‌خواهم ❤️ 🇩🇪 e\u0301"
    (tmp_path / "text").write_text(text)
    with Person(server, sessionId="clusters", shell="/bin/sh", cols=60) as person:
        person.type(f"cat {tmp_path}/text; echo; echo en''d\r")
        person.see(text)
    shown = server.client.get("/terminals/clusters/screen", params={"waitFor": text}).json()
    with Person(server, sessionId="clusters") as person:
        person.see(text)

    assert any(text in line for line in shown["lines"])


def test_a_terminal_is_an_xterm_whatever_the_servers_own_is(make_server, tmp_path: Path) -> None:
    document = tmp_path / "metadata"
    document.write_text(json.dumps({"environment": {"TERM": "vt100"}}))
    own = make_server(env={"TERM": "dumb", "BL_METADATA_PATH": str(document)})
    with Person(own, shell="/bin/sh") as person:
        person.type("echo [$TERM]\r")
        person.see("[xterm-256color]")

    assert own.client.post("/environment/reload").status_code == 200
    with Person(own, sessionId="other", shell="/bin/sh") as person:
        person.type("echo [$TERM]\r")
        person.see("[vt100]")


def test_a_client_that_comes_back_sees_the_true_screen_and_may_go_on(server: Server) -> None:
    with Person(server, sessionId="back") as person:
        person.ready()
        person.type("printf '\\033[31mred\\033[0m'; echo; echo first; kept=yes\r")
        person.see("first\r\n")
    with Person(server, sessionId="back") as person:
        replay = person.see("first")
        person.type("echo $kept\r")
        person.see("yes\r\n")

    assert replay.startswith("\x1b[0m")
    assert "\x1b[0;31mred" in replay


def test_all_clients_of_a_session_see_the_same_and_may_type(server: Server) -> None:
    with Person(server, sessionId="two") as one, Person(server, sessionId="two") as other:
        one.type("echo from-o''ne\r")
        other.see("from-one")
        other.type("echo from-ot''her\r")
        one.see("from-other")


def test_a_reconnect_in_the_middle_of_an_escape_sequence_loses_none_of_it(
    server: Server, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    start = r"printf 'before\033[3'; " + f"cat {gate}; "
    end = r"printf '1mcol%s\303' our; " + f"cat {gate}; " + r"printf '\251af%s\n' ter"
    with Person(server, sessionId="middle") as first:
        first.type(start + end + "\r")
        # A frame of its own where the screen was sent in between.
        first.see(lambda _: "before" in first.shown and first.shown.endswith("\x1b[3"))
    with Person(server, sessionId="middle") as second:
        second.see("before")
        gate.write_text("")
        second.see("colour")
        assert "\x1b[31mcolour" in second.shown
        with Person(server, sessionId="middle") as third:
            third.see("colour")
            gate.write_text("")
            third.see("\u00e9after")


def test_a_view_only_client_cannot_type_or_resize(server: Server) -> None:
    with (
        Person(server, sessionId="view") as owner,
        Person(server, sessionId="view", readOnly="true", cols=5, rows=5) as viewer,
    ):
        viewer.type("echo for''bidden\r")
        viewer.send({"type": "resize", "cols": 7, "rows": 7})
        owner.type("stty size; echo allo''wed\r")
        viewer.see("allowed")

        assert "forbidden" not in viewer.shown
        assert "24 80" in viewer.shown


def test_a_viewer_that_asks_is_told_every_size_where_in_the_output_it_was_set(
    server: Server,
) -> None:
    with Person(server, sessionId="sizes", sizes="true", cols=90, rows=20) as person:
        person.type("echo be''fore\r")
        person.see("before")  # as output, or on the screen that a late viewer is shown
        with Person(server, sessionId="sizes", sizes="true", cols=70, rows=10) as other:
            other.see(bool)
            until(lambda: person.read(0.1) and len(person.sizes) == 2)
            other.send({"type": "resize", "cols": 71, "rows": 11})
            until(lambda: other.read(0.1) and other.sizes[-1] == (71, 11))
        person.type("stty size\r")
        person.see("11 71")

        assert person.sizes == [(90, 20), (70, 10), (71, 11)]
        assert other.sizes[-1] == (71, 11)
        assert set(other.sizes) <= {(90, 20), (70, 10), (71, 11)}


def test_a_viewer_that_only_joins_opens_no_session(server: Server) -> None:
    with Person(server, sessionId="nobody", create="false") as person:
        code, _ = person.to_the_end()
    assert (code, person.errors) == (1011, ["terminal 'nobody' not found"])

    made = server.client.post("/terminals", json={"sessionId": "joined"}).json()
    with Person(server, sessionId=made["id"], create="false") as person:
        person.ready()
        person.type("echo la''st; exit 3\r")
        assert person.to_the_end() == (1000, "Shell exited")
    with Person(server, sessionId=made["id"], create="false") as person:
        assert person.to_the_end() == (1000, "Shell exited")
        assert "last" in person.shown
    names = [one["sessionId"] for one in server.client.get("/terminals").json()]
    assert (names.count("joined"), names.count("nobody")) == (1, 0)


def test_frames_that_make_no_sense_are_ignored(server: Server) -> None:
    with Person(server, sessionId="nonsense") as person:
        for frame in ("{", "[]", '{"type":"dance"}', '{"type":"input","data":7}', b"\xff\xfe", ""):
            person.send(frame)
        person.send({"type": "resize", "cols": 0, "rows": 70000})
        person.send(json.dumps({"type": "input", "data": "stty size\r"}).encode())
        person.see("24 80")


def test_frames_are_read_as_leniently_as_bodies(server: Server) -> None:
    with Person(server, sessionId="lenient") as person:
        person.send('{"type":"resize","Cols":70,"rows":20}')
        person.send('{"TYPE":"input","Data":"stty size","cols":null,"more":[1]}')
        person.send('{"type":"input","data":"\\r\\ud800","rows":null}')
        person.see("20 70")


@pytest.mark.parametrize("size", [{"cols": 0, "rows": 0}, {"cols": "x", "rows": "99999"}])
def test_sizes_that_make_no_sense_become_the_default(server: Server, size: dict) -> None:
    with Person(server, sessionId=f"size-{size['cols']}", **size) as person:
        person.type("stty size\r")
        person.see("24 80")


def test_a_shell_that_cannot_start_is_told_and_closed(server: Server) -> None:
    with Person(server, sessionId="none", shell="/no/such/shell") as person:
        code, _reason = person.to_the_end()
    with Person(server, sessionId="none", workingDir="/no/such/folder") as other:
        other.to_the_end()

    assert code == 1011
    assert "no such file" in person.errors[0]
    assert "/no/such/folder" in other.errors[0]


def test_a_frame_over_a_mebibyte_closes_with_1009(server: Server) -> None:
    with Person(server, sessionId="huge") as person:
        person.send({"type": "input", "data": "x" * (1 << 20)})

        assert person.to_the_end()[0] == 1009


def test_a_page_of_another_origin_is_refused(make_server) -> None:
    own: Server = make_server(env={"SANDKEEPER_TERMINAL_ORIGINS": "https://friend.example"})
    for bad in ("https://evil.example", "null", f"http://127.0.0.1:{own.port + 1}"):
        with pytest.raises(InvalidStatus) as refused:
            Person(own, headers={"Origin": bad})
        assert refused.value.response.status_code == 403
    for good in (own.url, "https://friend.example"):
        with Person(own, headers={"Origin": good}) as person:
            person.type("echo o''k\r")
            person.see("ok")
    with pytest.raises(InvalidStatus):  # nobody has said that this peer is a gateway
        Person(own, headers={"Origin": "https://gate.example", "X-Forwarded-Host": "gate.example"})


def test_a_trusted_gateway_says_by_which_name_and_scheme_its_pages_see_us(make_server) -> None:
    own: Server = make_server(env={"SANDKEEPER_TRUSTED_GATEWAYS": "127.0.0.1"})
    page = {"Origin": "https://gate.example", "X-Forwarded-Host": "gate.example"}
    with Person(own, headers={**page, "X-Forwarded-Proto": "https"}) as person:
        person.type("echo o''k\r")
        person.see("ok")
    with pytest.raises(InvalidStatus):  # a page of http is another origin
        Person(own, headers={**page, "X-Forwarded-Proto": "http"})


def test_limits_of_sessions_and_clients_close_with_1013(make_server) -> None:
    own: Server = make_server(
        env={"SANDKEEPER_TERMINAL_SESSIONS": "1", "SANDKEEPER_TERMINAL_CLIENTS": "1"}
    )
    with Person(own, sessionId="a") as first:
        first.type("echo o''k\r")
        first.see("ok")
        with Person(own, sessionId="a") as second, Person(own, sessionId="b") as third:
            assert second.to_the_end()[0] == 1013
            assert third.to_the_end()[0] == 1013
    assert own.client.post("/terminals", json={}).status_code == 409


def test_without_a_handshake_it_is_a_bad_request_and_head_is_bare(server: Server) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    for headers in (
        {},
        upgrade,
        upgrade | {"Sec-WebSocket-Version": "12", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="},
    ):
        reply = server.client.get("/terminal/ws", headers=headers)
        assert (reply.status_code, reply.text.strip()) == (400, "Bad Request")
        assert reply.headers["sec-websocket-version"] == "13"
    assert server.client.post("/terminal/ws", headers=upgrade).status_code == 404
    for path in ("/terminal", "/terminal/ws"):
        assert server.client.head(path).status_code == 200


def test_switched_off_there_is_no_terminal_at_all(make_server) -> None:
    own: Server = make_server(env={"DISABLE_TERMINAL": "1"})

    for path in ("/terminal", "/terminal/ws", "/terminals"):
        assert own.client.get(path).status_code == 404
    with pytest.raises(InvalidStatus) as refused:
        Person(own)
    assert refused.value.response.status_code == 404


def test_what_survives_the_shell_is_hung_up_and_then_killed(make_server) -> None:
    own: Server = make_server(env={"SANDKEEPER_TERMINAL_GRACE_MS": "5000"})
    mark = own.folder / "hup"
    with Person(own, sessionId="jobs", shell="/bin/sh") as person:
        person.type("nohup sleep 1000 >/dev/null 2>&1 &\r")
        loop = "echo read''y; while :; do sleep 0.01; done"
        person.type(f"(trap 'echo got > {mark}; exit' HUP; {loop}) &\r")
        person.see("ready")
        leader = own.client.get("/terminals/jobs").json()["pid"]
        person.type("exit\r")
        person.to_the_end()

    until(lambda: not members_of(leader))
    assert mark.read_text() == "got\n"


def test_closing_a_session_hangs_it_up_before_it_is_killed(make_server) -> None:
    own: Server = make_server(env={"SANDKEEPER_TERMINAL_GRACE_MS": "60000"})
    mark = own.folder / "hup"
    with Person(own, sessionId="closed", shell="/bin/sh") as person:
        loop = "echo read''y; while :; do sleep 0.01; done"
        person.type(f"trap 'echo got > {mark}; exit' HUP; {loop}\r")
        person.see("ready")
        assert own.client.delete("/terminals/closed").status_code == 200
        assert person.to_the_end() == (1000, "Shell exited")
    assert mark.read_text() == "got\n"

    hasty: Server = make_server(env={"SANDKEEPER_TERMINAL_GRACE_MS": "200"})
    with Person(hasty, sessionId="stubborn", shell="/bin/sh") as person:
        person.type("trap '' HUP; echo read''y\r")
        person.see("ready")
        hasty.client.delete("/terminals/stubborn")
        assert hasty.client.get("/terminals/stubborn").json()["exitSignal"] == 9


def test_an_idle_session_without_clients_is_closed_and_a_busy_one_is_not(make_server) -> None:
    own: Server = make_server(env={"SANDKEEPER_TERMINAL_IDLE_SECONDS": "4"})
    with Person(own, sessionId="busy") as busy:
        busy.type("while :; do echo tick; sleep 0.2; done\r")
        busy.see("tick")
    with Person(own, sessionId="idle") as idle, Person(own, sessionId="watched") as watched:
        idle.type("echo o''k\r")
        idle.see("ok")
        watched.see(lambda text: bool(text))
        idle.leave()

        def status(name: str) -> str:
            return own.client.get(f"/terminals/{name}").json()["status"]

        until(lambda: status("idle") == "exited")
        assert status("busy") == status("watched") == "running"


def test_typed_commands_are_audited_and_passwords_are_not(make_server) -> None:
    # A busy machine may take its time to show what was typed.
    own: Server = make_server(constants={"sandkeeper.terminals.terminal.ECHO_SECONDS": 20.0})
    with Person(own, sessionId="audit", shell="/bin/bash") as person:
        person.ready()
        person.type("ls\x7f\x7fecho é visible\r")
        person.see("é visible\r\n\x1b[?2004l\ré visible")
        person.type("read -rs -p 'Pass''word:' p; echo [${#p}]\r")
        person.see("Password:")
        person.type("hunter2\r")
        person.see("[7]")
        person.type("forgotten\x15echo after\r")
        person.see("after\r\n\x1b[?2004l\rafter")
    lines = until(
        lambda: len(audit(own, "terminal_command")) >= 3 and audit(own, "terminal_command")
    )

    commands = [line["command"] for line in lines]
    assert commands[0] == "echo é visible"
    assert commands[2] == "echo after"
    assert not any("hunter2" in command for command in commands)
    assert {"session-id", "shell", "working-dir"} <= set(audit(own, "terminal_connect")[0])
    until(lambda: audit(own, "terminal_disconnect"))


def test_input_that_nobody_reads_is_bounded_and_blocks_nobody(make_server) -> None:
    own: Server = make_server()
    with Person(own, sessionId="deaf", shell="/bin/sh") as person:
        person.type("stty raw -echo; echo read''y; sleep 1000\r")
        person.see("ready")
        for _ in range(6):
            with suppress(ConnectionClosed):
                person.type("x" * 1_000_000)
            assert own.client.get("/health").elapsed.total_seconds() < 20
        assert person.to_the_end()[0] == 1013
    assert own.client.post("/terminals/deaf/input", content=b"x" * 900_000).status_code == 409


def test_a_client_that_never_reads_costs_nothing_and_holds_nobody_up(make_server) -> None:
    # Who reads as slowly as a busy machine lets it is not one that does not read.
    own: Server = make_server(constants={"sandkeeper.terminals.terminal.SLOW_SECONDS": 3600.0})
    with Person(own, sessionId="flood") as fast:
        fast.type("stty -echo; echo read''y\r")
        fast.see("ready")
        stuck = socket.create_connection(("127.0.0.1", own.port))
        stuck.sendall(
            b"GET /terminal/ws?sessionId=flood HTTP/1.1\r\nHost: localhost\r\n"
            b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Sec-WebSocket-Version: 13\r\n\r\n"
        )
        until(lambda: own.client.get("/terminals/flood").json()["clients"] == 2)
        before = _rss(own.pid)
        fast.type("head -c 12000000 /dev/zero | tr '\\0' x; echo; echo do''ne\r")
        fast.see("done")
        stuck.close()

    assert fast.shown.count("x") >= 12_000_000
    assert _rss(own.pid) - before < 20 << 20


def test_a_client_that_fell_behind_gets_the_screen_as_it_is(make_server) -> None:
    own: Server = make_server()
    with Person(own, sessionId="lag") as slow:
        slow.type("stty -echo; PS1='> '; echo read''y\r")
        slow.see("ready")
        with Person(own, sessionId="lag") as fast:
            fast.type("seq 1 2500000; echo do''ne\r")
            fast.see("done")
        slow.forget()
        slow.see("\x1b[?1049l\x1b[0m", timeout=100)
        slow.see("done", timeout=100)

    assert len(slow.shown) < 20_000_000  # of 22: what is on its way before it is let go arrives
    assert "2500000" in slow.shown


def _rss(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def test_eighty_sessions_leave_nothing_behind(make_server) -> None:
    own: Server = make_server(
        env={"SANDKEEPER_TERMINAL_KEEP_ENDED": "0", "SANDKEEPER_TERMINAL_GRACE_MS": "100"}
    )

    def traces() -> tuple[int, int, int]:
        children = children_of(own.pid)
        folders = len(list((own.state / "terminals").iterdir()))
        return len(os.listdir(f"/proc/{own.pid}/fd")), len(children), folders

    def round_of(count: int, start: int) -> None:
        for first in range(start, start + count, 20):
            names = [f"s{n}" for n in range(first, first + 20)]
            people = [Person(own, sessionId=name, shell="/bin/sh") for name in names]
            for number, person in enumerate(people):
                person.see(lambda text: bool(text))
                if number % 2:
                    person.type("exit\r")
                    person.to_the_end()
                else:
                    person.leave()
            for name in names:
                own.client.delete(f"/terminals/{name}")

    round_of(20, 0)
    until(lambda: own.client.get("/terminals").json() == [])
    until(lambda: traces()[2] == 0)
    before = traces()
    round_of(60, 20)
    until(lambda: own.client.get("/terminals").json() == [])
    until(lambda: traces()[2] == 0)

    until(lambda: traces()[0] <= before[0] + 2)
    assert traces()[1] <= before[1]


@pytest.mark.parametrize("ending", ["stop", "kill9"])
def test_a_terminal_survives_the_server(make_server, ending: str) -> None:
    own: Server = make_server()
    with Person(own, sessionId="long", cols=100, rows=30) as person:
        person.type("kept=yes; printf '\\033[7mreverse\\033[0m\\n'; echo read''y\r")
        person.see("ready")
        person.type("(sleep 0.3; echo mean''while) &\r")
        person.see("meanwhile" if ending == "none" else "&")
        leader = own.client.get("/terminals/long").json()["pid"]
        getattr(own, ending)()
    own.start()

    record = own.client.get("/terminals/long").json()
    assert (record["pid"], record["cols"], record["rows"]) == (leader, 100, 30)
    with Person(own, sessionId="long", cols=100, rows=30) as person:
        person.see("\x1b[0;7mreverse")
        person.see("meanwhile")
        person.type("echo $kept; exit 5\r")
        person.see("yes\r\n")
        assert person.to_the_end() == (1000, "Shell exited")
    record = own.client.get("/terminals/long").json()
    assert (record["status"], record["exitCode"]) == ("exited", 5)


def test_a_shell_that_ended_while_the_server_was_away_is_seen_as_over(make_server) -> None:
    own: Server = make_server()
    with Person(own, sessionId="gone") as person:
        person.type("echo read''y\r")
        person.see("ready")
        leader = own.client.get("/terminals/gone").json()["pid"]
        own.kill9()
    os.kill(leader, 9)
    until(lambda: not members_of(leader))
    own.start()

    until(lambda: own.client.get("/terminals/gone").json()["status"] == "exited")
    with Person(own, sessionId="gone") as person:
        person.type("echo fre''sh\r")
        person.see("fresh")


def test_pings_are_answered(server: Server) -> None:
    with Person(server, sessionId="ping") as person:
        assert person.socket.ping().wait(60)


def test_the_page_is_whole_and_loads_nothing_from_elsewhere(server: Server) -> None:
    page = server.client.get("/terminal?sessionId=x")

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script src" not in page.text
    assert '<link rel="stylesheet"' not in page.text
