"""The published Python client, async and sync, against a real server: its process part."""

import asyncio
import gc
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from tests.harness import Server, free_port, until
from tests.later import Later

models = Later("blaxel.core.client.models")
blaxel = Later("blaxel.core.sandbox")
types = Later("blaxel.core.sandbox.types")

# Some calls of the client make an HTTP client each and leave its sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def collect() -> Iterator[None]:
    """Have them collected while they may be."""
    yield
    gc.collect()


LISTEN = (
    "python3 -c \"import socket,signal; s=socket.create_server(('0.0.0.0', {port})); "
    'print(1, flush=True); signal.pause()"'
)


def record() -> Any:
    return models.Sandbox(metadata=models.Metadata(name="local"), spec=models.SandboxSpec())


def with_async(server: Server, use: Callable[[Any], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        process = blaxel.SandboxInstance(record(), force_url=server.url).process
        try:
            return await use(process)
        finally:
            await process.get_client().aclose()

    return asyncio.run(run())


@pytest.fixture
def sync(server: Server) -> Iterator[Any]:
    process = blaxel.SyncSandboxInstance(record(), force_url=server.url).process
    yield process
    process.get_client().close()


# Async


def test_exec_without_waiting_answers_with_a_running_process(server: Server) -> None:
    async def use(process):
        made = await process.exec({"name": "a-bg", "command": "sleep 30"})
        seen = await process.get("a-bg")
        await process.kill("a-bg")
        return made, seen, await process.wait("a-bg")

    made, seen, ended = with_async(server, use)
    assert (made.status, seen.status, ended.status) == ("running", "running", "killed")
    assert made.pid == seen.pid == ended.pid
    assert (made.completed_at, ended.exit_code) == ("", -1)


def test_exec_that_waits_has_both_streams_apart(server: Server) -> None:
    done = with_async(
        server,
        lambda process: process.exec(
            {"command": "echo out; echo err >&2; exit 3", "wait_for_completion": True}
        ),
    )

    assert (done.status, done.exit_code) == ("failed", 3)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_streaming_exec_calls_back_and_returns_the_result(server: Server) -> None:
    out: list[str] = []
    err: list[str] = []
    both: list[str] = []
    command = "for i in 1 2 3; do echo tick$i; sleep 0.02; done; echo bad >&2; exit 4"

    result = with_async(
        server,
        lambda process: process.exec(
            {
                "name": "a-stream",
                "command": command,
                "wait_for_completion": True,
                "on_stdout": out.append,
                "on_stderr": err.append,
                "on_log": both.append,
            }
        ),
    )

    assert "".join(out).split() == ["tick1", "tick2", "tick3"]
    assert "".join(err).split() == ["bad"]
    assert "".join(both).split() == ["tick1", "tick2", "tick3", "bad"]
    assert (result.status, result.exit_code, result.name) == ("failed", 4, "a-stream")


def test_wait_for_ports_returns_when_the_port_is_open(server: Server) -> None:
    port = free_port()

    async def use(process):
        await process.exec(
            {"name": "a-port", "command": LISTEN.format(port=port), "wait_for_ports": [port]}
        )
        socket.create_connection(("127.0.0.1", port)).close()
        await process.kill("a-port")
        return await process.wait("a-port", interval=10)

    assert with_async(server, use).status == "killed"


def test_stream_logs_gives_history_and_live_lines_once_each(server: Server) -> None:
    lines: list[str] = []
    errors: list[str] = []

    async def use(process):
        command = "for i in $(seq 20); do echo line$i; sleep 0.01; done; echo no >&2"
        await process.exec({"name": "a-logs", "command": command})
        options = {"on_stdout": lines.append, "on_stderr": errors.append}
        async with process.stream_logs("a-logs", options) as handle:
            await handle.wait()

    with_async(server, use)
    assert lines == [f"line{i}" for i in range(1, 21)]
    assert errors == ["no"]


def test_stream_logs_that_connects_again_and_again_gives_each_line_once(server: Server) -> None:
    """The client connects anew every 30 s (here 0.2 s) and drops what it saw by index and text."""
    lines: list[str] = []
    errors: list[str] = []

    async def use(process):
        loop = asyncio.get_running_loop()
        later = loop.call_later
        connected = asyncio.Semaphore(0)

        def sooner(delay, *rest, **named):
            if delay == 30:
                connected.release()
                delay = 0.2
            return later(delay, *rest, **named)

        loop.call_later = sooner
        command = (
            "for i in $(seq 15); do echo o$i; printf part$i; sleep 0.02; echo e$i >&2; "
            "sleep 0.05; echo ' end'; done"
        )
        await process.exec({"name": "a-again", "command": command})
        options = {"on_stdout": lines.append, "on_stderr": errors.append}
        handle = process.stream_logs("a-again", options)
        async with asyncio.timeout(100):
            while len(errors) < 15 or len(lines) < 30:
                await asyncio.sleep(0.01)
            await process.wait("a-again", interval=10)
            while not connected.locked():
                await connected.acquire()
            for _ in range(3):  # two more connections are over: nothing may come twice
                await connected.acquire()
        handle["close"]()

    with_async(server, use)
    assert lines == [text for i in range(1, 16) for text in (f"o{i}", f"part{i} end")]
    assert errors == [f"e{i}" for i in range(1, 16)]


def test_callbacks_without_waiting_follow_in_the_background(server: Server) -> None:
    lines: list[str] = []

    async def use(process):
        made = await process.exec(
            {"name": "a-follow", "command": "echo one; echo two", "on_log": lines.append}
        )
        await process.wait("a-follow")
        async with asyncio.timeout(60):
            while len(lines) < 2:
                await asyncio.sleep(0.005)
        made.close()

    with_async(server, use)
    assert lines == ["one", "two"]


def test_list_and_logs_know_a_finished_process(server: Server) -> None:
    async def use(process):
        command = "echo o; echo e >&2"
        await process.exec({"name": "a-list", "command": command, "wait_for_completion": True})
        listed = [item for item in await process.list() if item.name == "a-list"]
        return listed, await process.logs("a-list"), await process.logs("a-list", "stderr")

    listed, logs, errors = with_async(server, use)
    assert [item.status for item in listed] == ["completed"]
    assert (sorted(logs.split()), errors) == (["e", "o"], "e\n")


def test_stop_ends_it_as_stopped_and_again_is_a_404(server: Server) -> None:
    async def use(process):
        await process.exec({"name": "a-stop", "command": "sleep 30"})
        await process.stop("a-stop")
        ended = await process.wait("a-stop")
        with pytest.raises(types.ResponseError) as refused:
            await process.stop("a-stop")
        return ended, refused.value

    ended, refused = with_async(server, use)
    assert ended.status == "stopped"
    assert refused.status == 404


def test_wait_gives_up_at_its_own_deadline_and_never_kills(server: Server) -> None:
    async def use(process):
        await process.exec({"name": "a-wait", "command": "sleep 30"})
        with pytest.raises(TimeoutError):
            await process.wait("a-wait", max_wait=100, interval=20)
        seen = await process.get("a-wait")
        await process.kill("a-wait")
        return seen

    assert with_async(server, use).status == "running"


def test_wait_returns_promptly_when_the_process_ends(server: Server) -> None:
    async def use(process):
        await process.exec({"name": "a-prompt", "command": "sleep 0.2; exit 6"})
        began = asyncio.get_running_loop().time()
        # A poll of the client would take its interval.
        ended = await process.wait("a-prompt", max_wait=120_000, interval=60_000)
        return ended, asyncio.get_running_loop().time() - began

    ended, took = with_async(server, use)
    assert ended.exit_code == 6
    assert took < 50


def test_stdin_is_written_and_closed_and_then_refused(server: Server) -> None:
    async def use(process):
        await process.exec({"name": "a-stdin", "command": "cat", "stdin": True})
        await process.write_stdin("a-stdin", "héllo\n")
        await process.write_stdin("a-stdin", b"\x00\x01\n")
        await process.close_stdin("a-stdin")
        await process.close_stdin("a-stdin")
        ended = await process.wait("a-stdin")
        with pytest.raises(types.ResponseError) as refused:
            await process.write_stdin("a-stdin", "late")
        return ended, refused.value

    ended, refused = with_async(server, use)
    assert (ended.status, ended.stdout, ended.stdin) == ("completed", "héllo\n\x00\x01\n", True)
    assert refused.status == 409


def test_restart_on_failure_and_keep_alive_are_echoed_and_counted(server: Server) -> None:
    async def use(process):
        await process.exec(
            {
                "name": "a-restart",
                "command": "echo run; exit 1",
                "restart_on_failure": True,
                "max_restarts": 1,
                "keep_alive": True,
            }
        )
        return await process.wait("a-restart")

    ended = with_async(server, use)
    assert (ended.status, ended.restart_count, ended.max_restarts) == ("failed", 1, 1)
    assert (ended.keep_alive, ended.stdout.count("run")) == (True, 2)


def test_an_unknown_process_is_a_response_error_404(server: Server) -> None:
    async def use(process):
        statuses = []
        for call in (process.get, process.stop, process.kill, process.logs, process.wait):
            with pytest.raises(types.ResponseError) as refused:
                await call("nobody")
            statuses.append(refused.value.status)
        return statuses

    assert with_async(server, use) == [404] * 5


def test_a_name_in_use_is_a_response_error_400(server: Server) -> None:
    async def use(process):
        await process.exec({"name": "a-twice", "command": "sleep 30"})
        with pytest.raises(types.ResponseError) as refused:
            await process.exec({"name": "a-twice", "command": "true"})
        await process.kill("a-twice")
        return refused.value.status

    assert with_async(server, use) == 400


# Sync


def test_sync_exec_waits_lists_and_reads_logs(sync) -> None:
    done = sync.exec({"name": "s-done", "command": "echo hi", "wait_for_completion": True})

    assert (done.status, done.stdout, sync.logs("s-done", "stdout")) == (
        "completed",
        "hi\n",
        "hi\n",
    )
    assert "s-done" in [item.name for item in sync.list()]
    assert sync.get("s-done").exit_code == 0


def test_sync_streaming_exec_calls_back(sync) -> None:
    out: list[str] = []
    err: list[str] = []

    result = sync.exec(
        {
            "command": "echo a; echo b >&2; sleep 0.05; echo c",
            "wait_for_completion": True,
            "on_stdout": out.append,
            "on_stderr": err.append,
        }
    )

    assert ("".join(out).split(), "".join(err).split()) == (["a", "c"], ["b"])
    assert result.status == "completed"


def test_sync_stream_logs_survives_silence_longer_than_its_read_timeout(sync) -> None:
    lines: list[str] = []
    sync.exec({"name": "s-quiet", "command": "echo first; sleep 5.3; echo last"})

    handle = sync.stream_logs("s-quiet", {"on_log": lines.append})

    until(lambda: lines == ["first", "last"])
    handle.close()


def test_sync_stop_kill_wait_and_stdin(sync) -> None:
    sync.exec({"name": "s-stop", "command": "sleep 30"})
    sync.stop("s-stop")
    assert sync.wait("s-stop", interval=10).status == "stopped"

    sync.exec({"name": "s-kill", "command": "sleep 30"})
    sync.kill("s-kill")
    assert sync.wait("s-kill", interval=10).status == "killed"

    sync.exec({"name": "s-in", "command": "cat", "stdin": True})
    sync.write_stdin("s-in", b"data")
    sync.close_stdin("s-in")
    assert sync.wait("s-in", interval=10).stdout == "data"


def test_sync_ports_and_restart(sync) -> None:
    port = free_port()
    sync.exec({"name": "s-port", "command": LISTEN.format(port=port), "wait_for_ports": [port]})
    sync.kill("s-port")

    made = sync.exec(
        {
            "command": "exit 9",
            "restart_on_failure": True,
            "max_restarts": 1,
            "wait_for_completion": True,
        }
    )
    assert (made.status, made.exit_code, made.restart_count) == ("failed", 9, 1)


def test_many_threads_of_the_sync_client_work_at_once(sync) -> None:
    results: list[str] = []

    def one(number: int) -> None:
        done = sync.exec({"command": f"echo {number}", "wait_for_completion": True})
        results.append(done.stdout.strip())

    threads = [threading.Thread(target=one, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(map(int, results)) == list(range(12))
