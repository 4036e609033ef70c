"""A rich state folder for tests, and everything that can happen to the files in it."""

import json
import os
import random
import shutil
import socket
from pathlib import Path

from tests.harness import Server, until

__all__ = ["KINDS", "SMALL", "damage", "files_of", "make_rich"]

SMALL = {
    "egress.json": {"version": 2, "port": 4321, "saved_at": "2026-01-01T00:00:00Z"},
    "upgrade.json": {"status": "completed", "step": "completed", "version": "1.0.0"},
    "archive/freeze.json": {
        "boot": "another",
        "since": 1.7e9,
        "reason": "archive export",
        "done": True,
        "read_only": False,
        "by_us": False,
        "stopped": ["a"],
        "processes": [{"command": "x", "name": "a"}],
    },
    "drives/mounted.json": [
        {
            "name": "d",
            "mount_path": "/nowhere",
            "drive_path": "/",
            "read_only": False,
            "uid_map": "",
            "gid_map": "",
            "driver": "bind",
            "pid": 1,
            "born": 2,
        }
    ],
    "tunnel/tunnel.json": {"name": "none0", "index": 99, "routes": []},
    "versions/current.json": {"base": "0", "python": "/nowhere/python", "count": 1},
}


def make_rich(server: Server) -> dict[str, str]:
    """Have a running server fill its state folder; returns the output of every finished run.

    The server is killed at the end, and with it what still ran.
    """
    outputs = {}
    for number in range(4):
        command = f"for i in $(seq 400); do echo out {number} $i; echo err $i >&2; done"
        outputs[server.run(command, name=f"run{number}")["id"]] = ""
    flood = server.run("yes 0123456789abcdef | head -c 500000", name="flood")
    outputs[flood["id"]] = ""
    for run in outputs:
        outputs[run] = server.client.get(f"/process/{run}/logs").text
    server.client.post("/process", json={"command": "echo begun; sleep 600", "name": "running"})
    for name in ("alive", "ended"):
        made = server.client.post("/terminals", json={"sessionId": name})
        assert made.status_code in {200, 201}, made.text
    assert server.client.delete("/terminals/ended").status_code in {200, 204}
    for name in ("one", "two"):
        started = server.client.post(f"/filesystem-multipart/initiate/{name}", json={}).json()
        for part in (1, 2):
            server.client.put(
                f"/filesystem-multipart/{started['uploadId']}/part?partNumber={part}",
                files={"file": ("f", b"x" * 1000 * part)},
            )
    until(lambda: all((server.state / "runs" / run / "exported").exists() for run in outputs))
    server.client.delete("/process/running/kill")
    server.kill9()
    server.let_go()
    for path, content in SMALL.items():
        (server.state / path).parent.mkdir(mode=0o700, exist_ok=True)
        (server.state / path).write_text(json.dumps(content))
        (server.state / path).chmod(0o600)
    (server.state / "lock").unlink()
    return outputs


def files_of(folder: Path) -> list[Path]:
    """Return every plain file below a folder, in order."""
    found = [Path(place) / name for place, _, names in os.walk(folder) for name in names]
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def _flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes()) or bytearray(1)
    place = chance.randrange(len(data))
    data[place] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def _cut(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size + 1))


def _zero(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    start = chance.randrange(len(data) + 1)
    count = min(chance.choice((1, 8, 64, 4096, 1 << 20)), len(data) - start)
    data[start : start + count] = bytes(count)
    path.write_bytes(data)


def _double(path: Path, _chance: random.Random) -> None:
    path.write_bytes(path.read_bytes() * 2)


def _append(path: Path, chance: random.Random) -> None:
    with path.open("ab") as file:
        file.write(chance.randbytes(chance.choice((1, 16, 160, 5000))))


def _garble(path: Path, chance: random.Random) -> None:
    path.write_bytes(chance.randbytes(max(64, min(path.stat().st_size, 1 << 16))))


def _deep(path: Path, _chance: random.Random) -> None:
    path.write_bytes(b'{"id":' * 100_000)


def _long(path: Path, _chance: random.Random) -> None:
    path.write_bytes(b'{"id":"' + b"x" * (5 << 20) + b'"}\n')


def _swap_digit(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    digits = [place for place, byte in enumerate(data[: 1 << 16]) if chr(byte).isdigit()]
    if digits:
        data[chance.choice(digits)] = chance.choice(b'0123456789-e.n"')
        path.write_bytes(data)


def _surrogate(path: Path, chance: random.Random) -> None:
    data = path.read_bytes()
    places = [place for place, byte in enumerate(data[: 1 << 16]) if byte == ord('"')]
    place = chance.choice(places) + 1 if places else 0
    piece = chance.choice((b"\\ud800", b"\\u0000", b"\xff\xfe", b"1e999"))
    path.write_bytes(data[:place] + piece + data[place:])


def _folder(path: Path, _chance: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _fifo(path: Path, _chance: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.symlink_to(chance.choice(("/nowhere", "/dev/zero", path.name, "/proc/self/mem")))


def _socket(path: Path, _chance: random.Random) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as made:
        here = os.open(path.parent, os.O_RDONLY)
        made.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


def _gone(path: Path, _chance: random.Random) -> None:
    path.unlink()


def _parent_file(path: Path, _chance: random.Random) -> None:
    parent = path.parent
    shutil.rmtree(parent)
    parent.write_bytes(b"a file where a folder was")


KINDS = {
    kind.__name__.strip("_"): kind
    for kind in (
        *(_flip, _flip, _cut, _zero, _double, _append, _garble, _deep, _long, _swap_digit),
        *(_surrogate, _folder, _fifo, _link, _socket, _gone, _parent_file),
    )
}


def damage(state: Path, chance: random.Random, *, parents: bool = True) -> tuple[Path, str]:
    """Damage one file of a state folder; returns which, and how."""
    path = chance.choice(files_of(state))
    kind = chance.choice([name for name in KINDS if parents or name != "parent_file"])
    if kind == "parent_file" and path.parent == state:
        kind = "gone"
    KINDS[kind](path, chance)
    return path, kind
