"""What must hold when things go wrong: kills, full disks, simultaneous writers."""

import hashlib
import os
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.harness import Server, debian, needs_root, open_files, resident, small_disk, until

from sandkeeper.files.paths import is_temporary

OCTETS = {"Accept": "application/octet-stream"}


def temporaries(*folders: Path) -> list[str]:
    return [
        str(path) for folder in folders for path in folder.rglob(".*") if is_temporary(path.name)
    ]


def is_whole(data: bytes) -> bool:
    """Say whether a content is one of ours: a byte repeated, with its length in front."""
    head, _, rest = data.partition(b"\n")
    return head.isdigit() and len(rest) == int(head) and len(set(rest)) <= 1


def content(number: int, size: int) -> bytes:
    return str(size).encode() + b"\n" + bytes([number % 26 + 97]) * size


class Writers:
    """Clients that write without end until the server is gone; they count what was confirmed."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.confirmed = 0
        self.attempts = 0
        actions = [self.plain, self.form, self.tree, self.parts, self.linked]
        self.threads = [threading.Thread(target=self.run, args=(action,)) for action in actions]
        for thread in self.threads:
            thread.start()

    def run(self, action: Callable[[httpx.Client, int], httpx.Response]) -> None:
        number = 0
        with httpx.Client(base_url=self.url, timeout=60) as client:
            while True:
                number += 1
                self.attempts += 1
                try:
                    reply = action(client, number)
                except httpx.TransportError:
                    return
                assert reply.status_code == 200, reply.text
                self.confirmed += 1

    def plain(self, client: httpx.Client, number: int) -> httpx.Response:
        text = content(number, number * 977 % 40_000).decode()
        return client.put(f"/filesystem/{self.folder}/plain", json={"content": text})

    def form(self, client: httpx.Client, number: int) -> httpx.Response:
        data = content(number, number * 99_991 % 2_000_000)
        return client.put(f"/filesystem/{self.folder}/form", files={"file": ("f", data)})

    def tree(self, client: httpx.Client, number: int) -> httpx.Response:
        files = {f"sub{i % 3}/{i}": content(number, 500 + i).decode() for i in range(12)}
        return client.put(f"/filesystem/tree/{self.folder}/tree", json={"files": files})

    def parts(self, client: httpx.Client, number: int) -> httpx.Response:
        data = content(number, 300_000)
        started = client.post(f"/filesystem-multipart/initiate/{self.folder}/parts").json()
        url = f"/filesystem-multipart/{started['uploadId']}"
        listed = []
        for index in range(2):
            half = data[index * 150_000 :] if index else data[:150_000]
            files = {"file": ("p", half)}
            listed.append(
                client.put(f"{url}/part", params={"partNumber": index + 1}, files=files).json()
            )
        return client.post(f"{url}/complete", json={"parts": listed})

    def linked(self, client: httpx.Client, number: int) -> httpx.Response:
        text = content(number, number * 331 % 9000).decode()
        return client.put(f"/filesystem/{self.folder}/link", json={"content": text})


def test_after_a_kill_every_file_is_whole_and_no_temporary_stays(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    folder = tmp_path / "data"
    (folder / "real").mkdir(parents=True)
    (folder / "link").symlink_to("real/target")
    temporary.mkdir()
    server = make_server(env={"TMPDIR": str(temporary)})
    chance = random.Random(3)
    confirmed = attempts = 0

    while attempts < 250:
        writers = Writers(server.url, folder)
        wanted = chance.randint(20, 80)
        until(lambda: writers.attempts >= wanted)  # noqa: B023 - called at once
        server.kill9()
        for thread in writers.threads:
            thread.join()
        confirmed += writers.confirmed
        attempts += writers.attempts
        files = [p for p in folder.rglob("*") if p.is_file() and not is_temporary(p.name)]
        assert files
        for path in files:
            assert is_whole(path.read_bytes()), path
        server.start()
        assert temporaries(folder) == []
        for upload in server.client.get("/filesystem-multipart").json()["uploads"]:
            server.client.delete(f"/filesystem-multipart/{upload['uploadId']}/abort")
        assert os.listdir(temporary / "multipart-uploads") == []

    assert confirmed > 50, (confirmed, attempts)


@pytest.fixture(name="small_disk")
def four_mebibytes(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 4, inodes=100) as folder:
        yield folder


@pytest.fixture
def quota(tmp_path: Path) -> Iterator[Path]:
    """A file system of which 4 MiB may be used; of this kernel's only btrfs has quotas."""
    debian("btrfs-progs")
    image, folder = tmp_path / "image", tmp_path / "quota"
    folder.mkdir()
    with open(image, "wb") as file:
        file.truncate(128 << 20)
    subprocess.run(["mkfs.btrfs", "-q", "-m", "single", image], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    try:
        subprocess.run(["btrfs", "quota", "enable", folder], check=True)
        subprocess.run(["btrfs", "qgroup", "limit", "4M", folder], check=True)
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@needs_root
@pytest.mark.parametrize(
    ("kind", "reason"),
    [("small_disk", "no space left on device"), ("quota", "disk quota exceeded")],
)
def test_a_full_disk_is_a_507_and_the_old_files_stay_whole(
    server: Server, kind: str, reason: str, request: pytest.FixtureRequest
) -> None:
    disk: Path = request.getfixturevalue(kind)
    for name in ["json", "form", "hard", "parts"]:
        (disk / name).write_text("old")
    os.link(disk / "hard", disk / "other-name")
    big = "x" * 5_000_000
    put = server.client.put
    started = server.client.post(f"/filesystem-multipart/initiate/{disk}/parts").json()
    url = f"/filesystem-multipart/{started['uploadId']}"
    part = put(f"{url}/part", params={"partNumber": 1}, files={"file": ("p", big.encode())}).json()

    replies = [
        put(f"/filesystem/{disk}/json", json={"content": big}),
        put(f"/filesystem/{disk}/form", files={"file": ("f", big.encode())}),
        put(f"/filesystem/{disk}/hard", json={"content": big}),
        put(f"/filesystem/{disk}/new", json={"content": big}),
        put(
            f"/filesystem/tree/{disk}/tree",
            json={"files": {"a": "fine", "b": big, "made/c": "x"}},
        ),
        server.client.post(f"{url}/complete", json={"parts": [part]}),
    ]

    for reply in replies:
        assert reply.status_code == 507, reply.text
        assert reason in reply.json()["error"]
    for name in ["json", "form", "hard", "other-name", "parts"]:
        assert (disk / name).read_text() == "old"
    assert sorted(os.listdir(disk)) == ["form", "hard", "json", "other-name", "parts"]
    server.client.delete(f"{url}/abort")
    fits = put(f"/filesystem/{disk}/json", json={"content": "y" * 1_000_000})
    assert fits.status_code == 200


@needs_root
def test_running_out_of_inodes_is_a_507_as_well(server: Server, small_disk: Path) -> None:
    files = {str(number): "" for number in range(150)}

    reply = server.client.put(f"/filesystem/tree/{small_disk}", json={"files": files})

    assert reply.status_code == 507
    assert os.listdir(small_disk) == []


@needs_root
def test_a_file_in_a_read_only_place_that_is_writable_itself_is_written_in_place(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "outside").write_text("an old and longer content")
    (tmp_path / "mounted").write_text("")
    subprocess.run(["mount", "--bind", tmp_path / "outside", tmp_path / "mounted"], check=True)
    try:
        reply = server.client.put(f"/filesystem/{tmp_path}/mounted", json={"content": "new"})
        big = b"x" * 2_000_000
        form = server.client.put(f"/filesystem/{tmp_path}/mounted", files={"file": ("f", big)})

        assert (reply.status_code, form.status_code) == (200, 200), reply.text
        assert (tmp_path / "outside").read_bytes() == big
        assert temporaries(tmp_path) == []
    finally:
        subprocess.run(["umount", tmp_path / "mounted"], check=True)


@needs_root
def test_a_kernel_setting_is_written_as_a_file(server: Server) -> None:
    path = "/proc/sys/kernel/core_pattern"
    before = Path(path).read_text()

    reply = server.client.put(f"/filesystem/{path}", json={"content": before})

    assert reply.status_code == 200, reply.text
    assert Path(path).read_text() == before


def test_of_simultaneous_writers_with_if_match_exactly_one_wins(
    server: Server, tmp_path: Path
) -> None:
    url = f"/filesystem/{tmp_path}/f"
    clients = [httpx.Client(base_url=server.url, timeout=60) for _ in range(8)]

    def write(number: int, headers: dict[str, str]) -> int:
        if number % 2:
            files = {"file": ("f", str(number).encode())}
            return clients[number].put(url, files=files, headers=headers).status_code
        body = {"content": str(number)}
        return clients[number].put(url, json=body, headers=headers).status_code

    headers = {"If-None-Match": "*"}
    with ThreadPoolExecutor(8) as pool:
        for _ in range(15):
            together = threading.Barrier(8)

            def race(number: int, headers: dict[str, str] = headers, gate: Any = together) -> int:
                gate.wait()
                return write(number, headers)

            statuses = list(pool.map(race, range(8)))
            assert sorted(statuses) == [200] + [412] * 7
            winner = statuses.index(200)
            assert (tmp_path / "f").read_text() == str(winner)
            headers = {"If-Match": clients[0].head(url).headers["etag"]}
    for client in clients:
        client.close()


def test_a_write_answers_the_etag_that_the_next_write_needs(server: Server, tmp_path: Path) -> None:
    url = f"/filesystem/{tmp_path}/f"

    first = server.client.put(url, json={"content": "1"}).headers["etag"]
    assert server.client.get(url).headers["etag"] == first
    assert server.client.get(url, headers=OCTETS).headers["etag"] == first
    second = server.client.put(url, json={"content": "2"}, headers={"If-Match": first})
    assert second.status_code == 200
    stale = server.client.put(url, json={"content": "3"}, headers={"If-Match": first})
    assert (stale.status_code, (tmp_path / "f").read_text()) == (412, "2")
    assert second.headers["etag"] in stale.json()["error"]
    form = server.client.put(url, files={"file": ("f", b"4")}, headers={"If-Match": first})
    assert form.status_code == 412
    assert server.client.delete(url, headers={"If-Match": first}).status_code == 412
    weak = {"If-Match": "W/" + second.headers["etag"]}
    assert server.client.delete(url, headers=weak).status_code == 412
    current = {"If-Match": second.headers["etag"]}
    assert server.client.delete(url, headers=current).status_code == 200
    assert server.client.delete(url, headers=current).status_code == 412
    gone = server.client.put(url, json={"content": "5"}, headers={"If-Match": "*"})
    assert (gone.status_code, os.listdir(tmp_path)) == (412, [])


def test_quick_successive_writes_never_share_an_etag(server: Server, tmp_path: Path) -> None:
    url = f"/filesystem/{tmp_path}/f"

    tags = [server.client.put(url, json={"content": "same"}).headers["etag"] for _ in range(200)]

    assert len(set(tags)) == 200


def test_100_megabytes_go_up_and_down_at_once_and_memory_stays(
    server: Server, tmp_path: Path
) -> None:
    size = 100_000_000
    block = os.urandom(1_000_000)
    blocks = size // len(block)
    digest = hashlib.sha256()
    with open(tmp_path / "down", "wb") as file:
        for number in range(blocks):
            piece = number.to_bytes(8, "big") + block[8:]
            digest.update(piece)
            file.write(piece)
    down, up = f"/filesystem/{tmp_path}/down", f"/filesystem/{tmp_path}/up"
    before = resident(server.pid)

    def relay() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        with httpx.stream("GET", server.url + down, headers=OCTETS, timeout=60) as reply:
            yield from reply.iter_raw(1 << 18)
        yield b"\r\n--b--\r\n"

    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    reply = httpx.put(server.url + up, content=relay(), headers=kind, timeout=60)

    assert reply.status_code == 200
    with open(tmp_path / "up", "rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == digest.hexdigest()
    assert resident(server.pid) - before < 20_000_000


def test_a_download_that_nobody_reads_holds_little_and_ends_with_its_client(
    server: Server, tmp_path: Path
) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(10 << 30)
    before = resident(server.pid)

    def held() -> list[str]:
        return [link for link in open_files(server.pid) if "sparse" in link]

    with httpx.stream("GET", f"{server.url}/filesystem/{tmp_path}/sparse", headers=OCTETS) as reply:
        pieces = reply.iter_raw(1000)  # kept: without it the client would hang up
        next(pieces)
        until(held)
        assert server.client.get("/health").status_code == 200
        assert resident(server.pid) - before < 10_000_000
    until(lambda: not held())


def test_a_file_that_shrinks_while_it_is_sent_breaks_the_connection_not_the_server(
    server: Server, tmp_path: Path
) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 30)
    with (
        pytest.raises(httpx.RemoteProtocolError),
        httpx.stream("GET", f"{server.url}/filesystem/{tmp_path}/sparse", headers=OCTETS) as reply,
    ):
        pieces = reply.iter_raw(1000)
        next(pieces)
        os.truncate(tmp_path / "sparse", 0)
        for _ in pieces:
            continue

    assert server.client.get("/health").status_code == 200


def test_a_directory_of_many_files_is_listed_whole_while_they_vanish(
    server: Server, tmp_path: Path
) -> None:
    for number in range(6000):
        (tmp_path / f"{number:05}").touch()
    vanish = threading.Thread(
        target=lambda: [os.unlink(tmp_path / f"{number:05}") for number in range(3000, 6000)]
    )
    vanish.start()
    names = []
    for _ in range(3):
        reply = server.client.get(f"/filesystem/{tmp_path}")
        assert reply.status_code == 200
        names = [entry["name"] for entry in reply.json()["files"]]
        assert names[:3000] == [f"{number:05}" for number in range(3000)]
    vanish.join()
    assert names == sorted(names)


@needs_root
def test_parts_of_uploads_take_no_room_that_is_kept_for_root(
    make_server: Any, tmp_path: Path
) -> None:
    """A file system with a reserve (mke2fs(8), -m): the user's is full before the disk is."""
    image, disk = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    disk.mkdir()
    try:
        subprocess.run(["mkfs.ext4", "-q", "-m", "50", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, disk], check=True, stderr=subprocess.PIPE)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system in a file here: {error}")
    try:
        disk.chmod(0o1777)
        server: Server = make_server(args=["--user", "nobody"], env={"TMPDIR": str(disk)})
        begun = server.client.post(f"/filesystem-multipart/initiate/{tmp_path}/x").json()
        address = f"/filesystem-multipart/{begun['uploadId']}/part"
        replies = [
            server.client.put(address, params={"partNumber": n}, files={"file": bytes(1 << 20)})
            for n in range(1, 16)
        ]
        left = os.statvfs(disk)
        server.stop()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)

    assert replies[0].status_code == 200
    assert {reply.status_code for reply in replies[8:]} == {507}
    assert left.f_bfree * left.f_frsize > 6 << 20
