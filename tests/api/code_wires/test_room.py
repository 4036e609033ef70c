"""Long events where many answers wait to be read."""

import asyncio
from contextlib import closing
from pathlib import Path

import pytest

from sandkeeper.api.code_wires.room import AnswerRoom
from sandkeeper.api.edge.connections import outgoing
from sandkeeper.api.edge.connections.outgoing import Answer, Outgoing
from sandkeeper.interpreter.events import Outcome
from sandkeeper.interpreter.execution import Execution
from sandkeeper.interpreter.scribe.recorder import ExecutionRecorder
from sandkeeper.interpreter.specs import ExecutionMeta
from sandkeeper.journal.budget import Budget


def test_an_event_without_room_is_waited_for_once_and_told_as_a_gap(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(outgoing, "WAIT_SECONDS", 0.05)
    meta = ExecutionMeta("one", "context")
    folder = tmp_path / "context" / "one"
    budget = Budget(run_bytes=64 << 20, total_bytes=64 << 20)
    recorder = ExecutionRecorder(folder, meta, budget, lambda _one: None)
    recorder.event("display", data={"text/plain": "x" * (8 << 20)}, metadata={})
    recorder.event("display", data={"text/plain": "short"}, metadata={})
    recorder.end(Outcome("ok"))
    room_of_all = Outgoing(100_000)

    async def followed() -> list[str]:
        kinds = []
        room = AnswerRoom(Answer(room_of_all, None))
        with closing(await Execution(meta, folder).follow()) as stream:
            while (events := await stream.next(1.0)) is not None:
                kinds += [one.kind for one in await room.fitting(stream, events)]
        return kinds

    assert asyncio.run(followed()) == ["gap", "display", "end"]
    assert (room_of_all.refused, room_of_all.held) == (1, 0)
    assert room_of_all.most <= room_of_all.limit
