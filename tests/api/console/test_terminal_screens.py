"""Sessions over HTTP, and full-screen programs against the emulator's screen."""

import json
from pathlib import Path

import pytest
from tests.harness import Server, debian, until
from tests.person import Person


@pytest.fixture(scope="module", autouse=True)
def programs() -> None:
    debian("vim", "less", "procps")


def opened(server: Server, name: str, **fields) -> dict:
    reply = server.client.post("/terminals", json={"sessionId": name, **fields})
    assert reply.status_code == 201, reply.text
    return reply.json()


def type_into(server: Server, name: str, text: str) -> None:
    reply = server.client.post(f"/terminals/{name}/input", content=text.encode())
    assert reply.status_code == 200, reply.text


def screen(server: Server, name: str, wait_for: str = "", **query) -> dict:
    if wait_for:
        query |= {"waitFor": wait_for, "timeout": 60}
    return server.client.get(f"/terminals/{name}/screen", params=query).json()


def test_vim_edits_and_gives_the_screen_back(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "poem.txt"
    file.write_text("first line\nsecond line\n")
    opened(server, "vim", cols=60, rows=12, shell="/bin/sh")
    type_into(
        server, "vim", "echo bef''ore\rvim -u NONE -N poem.txt\r".replace("poem.txt", str(file))
    )
    at_the_top = {"row": 0, "col": 0, "visible": True}
    screen(server, "vim", "second line\n~")
    seen = until(lambda: (one := screen(server, "vim"))["cursor"] == at_the_top and one)

    assert seen["alternate"]
    assert seen["lines"][:3] == ["first line", "second line", "~"]
    type_into(server, "vim", "jAé\x1bO漢字\x1b")
    drawn = (["first line", "漢字", "second lineé", "~"], 2)
    until(lambda: ((one := screen(server, "vim"))["lines"][:4], one["cursor"]["col"]) == drawn)
    with Person(server, sessionId="vim", cols=60, rows=12) as person:
        assert "\x1b[?1049h" in person.see("second lineé")
    type_into(server, "vim", ":wq\r")
    until(lambda: not screen(server, "vim")["alternate"])
    type_into(server, "vim", "echo aft''er\r")
    seen = screen(server, "vim", "\nafter")

    assert not seen["alternate"]
    assert any(line.endswith("before") for line in seen["lines"])
    assert file.read_text() == "first line\n漢字\nsecond lineé\n"


def test_less_pages_searches_and_leaves(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "numbers.txt"
    file.write_text("".join(f"number {n}\n" for n in range(1, 1001)))
    opened(server, "less", cols=50, rows=10, shell="/bin/sh")
    type_into(server, "less", f"less {file}\r")

    def first_nine() -> list[str]:
        return screen(server, "less")["lines"][:9]

    until(lambda: first_nine() == [f"number {n}" for n in range(1, 10)])
    type_into(server, "less", " ")
    until(lambda: first_nine() == [f"number {n}" for n in range(10, 19)])
    type_into(server, "less", "/number 500\r")
    until(lambda: screen(server, "less")["lines"][0] == "number 500")
    type_into(server, "less", "g")
    screen(server, "less", "number 1\n")
    type_into(server, "less", "G")
    until(lambda: first_nine()[8] == "number 1000")
    type_into(server, "less", "q")
    until(lambda: not screen(server, "less")["alternate"])


def test_top_draws_its_table_and_follows_a_new_size(server: Server) -> None:
    opened(server, "top", cols=80, rows=20, shell="/bin/sh")
    type_into(server, "top", "top -d 0.2\r")
    lines = screen(server, "top", "%CPU")["lines"]

    assert lines[0].startswith("top - ")
    assert any(line.split()[:2] == ["PID", "USER"] for line in lines)
    assert len(lines) == 20
    server.client.patch("/terminals/top", json={"cols": 70, "rows": 12})
    until(lambda: screen(server, "top")["rows"] == 12)
    until(lambda: "%CPU" in "\n".join(screen(server, "top")["lines"]))
    assert all(len(line) <= 70 for line in screen(server, "top")["lines"])
    type_into(server, "top", "q")


def test_a_storm_of_sizes_ends_with_the_last_one(server: Server, tmp_path: Path) -> None:
    opened(server, "storm", shell="/bin/bash")
    type_into(server, "storm", "PS1='> '; trap 'echo winch' WINCH; echo read''y\r")
    screen(server, "storm", "ready")
    with Person(server, sessionId="storm") as person:
        for number in range(600):
            person.send(
                {"type": "resize", "cols": 1 + number * 37 % 10_000, "rows": 1 + number % 90}
            )
        person.send({"type": "resize", "cols": 10_000, "rows": 60})
        person.type("stty size; printf 'w%.0s' $(seq 9000); echo; echo en''d\r")
        person.see("60 10000")
        person.see("end")

    seen = screen(server, "storm", "end")
    assert "w" * 9000 in seen["lines"]
    assert server.client.get("/terminals/storm").json()["cols"] == 10_000


def test_sessions_are_listed_renamed_and_removed(server: Server) -> None:
    made = opened(server, "first name", shell="/bin/sh", cols=90, rows=20)
    assert made["status"] == "running"
    assert server.client.post("/terminals", json={"sessionId": "first name"}).status_code == 409
    renamed = server.client.patch("/terminals/first%20name", json={"sessionId": "a/b"}).json()
    assert renamed["sessionId"] == "a/b"
    assert server.client.get("/terminals/first%20name").status_code == 404
    assert server.client.get("/terminals/a%2Fb").json()["id"] == made["id"]
    assert made["id"] in {one["id"] for one in server.client.get("/terminals").json()}
    assert server.client.delete(f"/terminals/{made['id']}").status_code == 200
    assert server.client.get(f"/terminals/{made['id']}").json()["status"] == "exited"
    assert server.client.delete(f"/terminals/{made['id']}").status_code == 200
    assert server.client.get(f"/terminals/{made['id']}").status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        '{"cols":70000}',
        '{"cols":-1}',
        '{"sessionId":7}',
        "[]",
        json.dumps({"sessionId": "x" * 300}),
    ],
)
def test_a_session_that_cannot_be_is_a_bad_request(server: Server, body: str) -> None:
    assert server.client.post("/terminals", content=body).status_code == 400


def test_the_screen_comes_as_text_with_its_history(server: Server) -> None:
    opened(server, "text", shell="/bin/sh", rows=5)
    type_into(server, "text", "seq 1 40; echo en''d\r")
    screen(server, "text", "end")

    def both() -> dict | None:
        """Return the screen where its text is the same: a prompt may come between the two."""
        seen = screen(server, "text", history=20)
        text = server.client.get("/terminals/text/screen?format=text&history=20").text
        return seen if text.splitlines() == [*seen["history"], *seen["lines"]] else None

    seen = until(both)
    assert {"35", "36"} <= set(seen["history"])
    assert server.client.get("/terminals/text/screen?history=many").status_code == 400


def test_waiting_for_a_text_that_never_comes_ends_in_time(server: Server) -> None:
    opened(server, "never", shell="/bin/sh")

    seen = screen(server, "never", waitFor="no such text", timeout=0)

    assert seen["status"] == "running"


def test_a_recording_is_an_asciicast_with_times_and_sizes(server: Server) -> None:
    opened(server, "tape", shell="/bin/sh", cols=70, rows=11)
    type_into(server, "tape", "echo o''ne\r")
    screen(server, "tape", "one")
    server.client.patch("/terminals/tape", json={"cols": 99})
    type_into(server, "tape", "echo tw''o\r")
    screen(server, "tape", "two")
    reply = server.client.get("/terminals/tape/recording")
    header, *events = [json.loads(line) for line in reply.text.splitlines()]

    assert reply.headers["content-type"] == "application/x-asciicast"
    assert (header["version"], header["width"], header["height"]) == (2, 70, 11)
    assert [event[2] for event in events if event[1] == "r"] == ["99x11"]
    assert "two" in "".join(event[2] for event in events if event[1] == "o")
    times = [event[0] for event in events]
    assert times == sorted(times)


def test_the_screen_after_a_flood_is_right_and_comes_soon(server: Server) -> None:
    opened(server, "flooded", shell="/bin/sh", rows=10)
    type_into(server, "flooded", "seq 1 300000; echo en''d\r")
    until(lambda: server.client.get("/terminals/flooded").json()["outputBytes"] > 2_200_000)
    seen = screen(server, "flooded", "\nend")

    place = seen["lines"].index("end")
    assert seen["lines"][place - 3 : place] == ["299998", "299999", "300000"]
