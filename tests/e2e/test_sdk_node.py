"""The published Node client against a real server: its process part, in one run of a script."""

from typing import Any

import pytest
from tests.harness import Server, free_port
from tests.node_client import run_node


@pytest.fixture(scope="module")
def seen(server: Server) -> dict[str, Any]:
    """Return what the client saw."""
    return run_node("processes.mjs", server.url, free_port())


@pytest.mark.timeout(400)
def test_a_background_process_runs_and_is_found_by_name_and_in_the_list(seen) -> None:
    assert seen["background"] == ["running", "string", True]
    assert seen["listed"] is True


def test_a_name_in_use_is_refused_and_unknown_ones_are_404(seen) -> None:
    assert seen["inUse"] == 400
    assert seen["unknown"] == [404] * 4


def test_kill_ends_it_once(seen) -> None:
    assert (seen["killed"]["status"], seen["killed"]["exitCode"]) == ("killed", -1)
    assert seen["killedTwice"] == 404


def test_a_waited_exec_has_both_streams_apart(seen) -> None:
    assert seen["waited"] == {
        "status": "failed",
        "exitCode": 3,
        "stdout": "out\n",
        "stderr": "err\n",
    }


def test_a_streaming_exec_calls_back_and_returns_the_result(seen) -> None:
    assert seen["callbacks"]["out"] == "tick1\ntick2\ntick3\n"
    assert seen["callbacks"]["err"] == "bad\n"
    assert seen["callbacks"]["log"] == "tick1\ntick2\ntick3\nbad\n"
    assert (seen["streaming"]["status"], seen["streaming"]["exitCode"]) == ("failed", 4)


def test_wait_for_ports_and_stop(seen) -> None:
    assert (seen["portOpen"], seen["stopped"]) == (True, "stopped")


def test_streamed_lines_come_once_each_the_unfinished_last_one_too(seen) -> None:
    expected = [*(f"line{number}" for number in range(1, 21)), "tail"]

    assert seen["lines"] == expected
    assert seen["logs"] == ["\n".join(expected), ""]


def test_callbacks_without_waiting_follow_in_the_background(seen) -> None:
    assert seen["followed"] == ["one", "two"]


def test_stdin_is_fed_closed_and_then_refused(seen) -> None:
    assert seen["stdin"]["stdout"] == "héllo\n\x00\x01\n"
    assert seen["stdin"]["status"] == "completed"
    assert seen["stdinLate"] == 409


def test_restart_policy_and_keep_alive_come_back(seen) -> None:
    assert seen["restarted"] == ["failed", 1, 1, True]
