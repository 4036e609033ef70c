"""The readiness wait: an answer when a process is ready, or at once when it never will be."""

import asyncio
from typing import Annotated

import msgspec
from msgspec import Meta, field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.edge.request_body import read_json
from sandkeeper.api.edge.respond import json_response
from sandkeeper.api.edge.rights import USER
from sandkeeper.api.edge.routing import route
from sandkeeper.api.edge.streaming import until_disconnect
from sandkeeper.api.edge.urls import segment
from sandkeeper.api.schemas.waiting import (
    ConditionFields,
    condition_of,
    failure_text,
    record_of_wait,
)
from sandkeeper.errors import BadInput
from sandkeeper.files.service import Files
from sandkeeper.journal.turns import Turns
from sandkeeper.processes.registry import Processes
from sandkeeper.processes.waiting import Waiting

__all__ = ["WaitingHandlers", "routes"]

BODY_BYTES = 64 << 10
CONDITIONS_MOST = 16
CODES = {"timeout": "TIMED_OUT", "exited": "PROCESS_ENDED"}


class WaitForRequest(msgspec.Struct):
    """The body of `POST /process/{identifier}/wait-for`; `timeout` in seconds."""

    any_of: list[ConditionFields] = field(default_factory=list, name="any")
    all_of: list[ConditionFields] = field(default_factory=list, name="all")
    timeout: Annotated[float, Meta(ge=0, le=3600)] = 60.0


class WaitingHandlers:
    """Handlers over `processes.waiting`."""

    def __init__(
        self,
        *,
        processes: Processes,
        files: Files,
        waiting: Waiting,
        turns: Turns,
        stopping: asyncio.Event,
    ) -> None:
        self._processes = processes
        self._files = files
        self._waiting = waiting
        self._turns = turns
        self._stopping = stopping

    async def wait_for(self, request: Request) -> Response:
        """Wait; 200 when it is ready, 422 with what is missing otherwise."""
        process = self._processes.get(segment(request.scope, 1))
        wanted = await read_json(request, WaitForRequest, BODY_BYTES)
        given = wanted.any_of or wanted.all_of
        if not given or (wanted.any_of and wanted.all_of):
            raise BadInput("either any or all must name conditions")
        if len(given) > CONDITIONS_MOST:
            raise BadInput(f"at most {CONDITIONS_MOST} conditions are waited for at once")
        conditions = []
        for one in given:
            await self._turns.take()  # a pattern may take a twentieth of a second to read
            conditions.append(condition_of(one, process, self._files))
        waiting = self._waiting.wait(
            process, conditions, every=bool(wanted.all_of), seconds=wanted.timeout
        )
        outcome = await until_disconnect(request, waiting, self._stopping)
        record = record_of_wait(process, conditions, outcome)
        if outcome.reason == "met":
            return json_response(record)
        told = msgspec.to_builtins(record)
        text = failure_text(record, outcome, wanted.timeout)
        return json_response({"error": text, "code": CODES[outcome.reason], **told}, 422)


def routes(handlers: WaitingHandlers) -> list[BaseRoute]:
    """Return the routes of this area."""
    return [route("/process/{identifier}/wait-for", handlers.wait_for, "POST", need=USER)]
