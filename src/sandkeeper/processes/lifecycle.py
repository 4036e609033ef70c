"""The life of a process: what may happen in which state, and what follows. All of it is here.

A state changes by an event only, through `TABLE`; a pair that is not in the table is illegal.
Terminal states are reached by the end of a process (or of its last attempt) and never left.

    running ──exit 0──────────────▶ completed
       │  ╰──exit ≠ 0, signal──────▶ failed        (no restart left)
       │  ╰──the same──▶ backoff ──retry is due──▶ running
       ├──stop──▶ stopping ──exit──▶ stopped       (exit 0: completed)
       ╰──kill──▶ killing  ──exit──▶ killed        (exit 0: completed)

On the wire `backoff`, `stopping` and `killing` are `running`: the process is not over.
"""

from enum import StrEnum

__all__ = ["TABLE", "TERMINAL", "Effect", "Event", "IllegalEvent", "State", "step", "wire_status"]


class State(StrEnum):
    """Where a process stands."""

    RUNNING = "running"
    STOPPING = "stopping"
    KILLING = "killing"
    BACKOFF = "backoff"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"
    KILLED = "killed"


class Event(StrEnum):
    """What can happen to it."""

    EXIT_OK = "exit 0"
    EXIT_BAD = "exit with another code or by a signal"
    EXIT_RETRY = "the same, and the restart policy allows another attempt"
    RETRY_DUE = "the back-off is over"
    START_FAILED = "another attempt could not be started"
    STOP = "somebody asks it to stop"
    KILL = "somebody kills it, or its time is up"


class Effect(StrEnum):
    """What is to be done, in order."""

    TERMINATE = "send SIGTERM to the group"
    KILL = "send SIGKILL to the group"
    SCHEDULE_RETRY = "begin the back-off"
    CANCEL_RETRY = "end the back-off"
    START = "start another attempt"
    FINISH = "tell everybody that it is over"


S, E, F = State, Event, Effect

TERMINAL = frozenset({S.COMPLETED, S.FAILED, S.STOPPED, S.KILLED})

TABLE: dict[tuple[State, Event], tuple[State, tuple[Effect, ...]]] = {
    (S.RUNNING, E.EXIT_OK): (S.COMPLETED, (F.FINISH,)),
    (S.RUNNING, E.EXIT_BAD): (S.FAILED, (F.FINISH,)),
    (S.RUNNING, E.EXIT_RETRY): (S.BACKOFF, (F.SCHEDULE_RETRY,)),
    (S.RUNNING, E.START_FAILED): (S.FAILED, (F.FINISH,)),
    (S.RUNNING, E.STOP): (S.STOPPING, (F.TERMINATE,)),
    (S.RUNNING, E.KILL): (S.KILLING, (F.KILL,)),
    (S.STOPPING, E.EXIT_OK): (S.COMPLETED, (F.FINISH,)),
    (S.STOPPING, E.EXIT_BAD): (S.STOPPED, (F.FINISH,)),
    (S.STOPPING, E.EXIT_RETRY): (S.STOPPED, (F.FINISH,)),
    (S.STOPPING, E.START_FAILED): (S.STOPPED, (F.FINISH,)),
    (S.STOPPING, E.STOP): (S.STOPPING, (F.TERMINATE,)),
    (S.STOPPING, E.KILL): (S.KILLING, (F.KILL,)),
    (S.KILLING, E.EXIT_OK): (S.COMPLETED, (F.FINISH,)),
    (S.KILLING, E.EXIT_BAD): (S.KILLED, (F.FINISH,)),
    (S.KILLING, E.EXIT_RETRY): (S.KILLED, (F.FINISH,)),
    (S.KILLING, E.START_FAILED): (S.KILLED, (F.FINISH,)),
    (S.KILLING, E.STOP): (S.KILLING, ()),
    (S.KILLING, E.KILL): (S.KILLING, (F.KILL,)),
    (S.BACKOFF, E.RETRY_DUE): (S.RUNNING, (F.START,)),
    (S.BACKOFF, E.STOP): (S.STOPPED, (F.CANCEL_RETRY, F.FINISH)),
    (S.BACKOFF, E.KILL): (S.KILLED, (F.CANCEL_RETRY, F.FINISH)),
}


class IllegalEvent(Exception):
    """The event cannot happen in that state."""


def step(state: State, event: Event) -> tuple[State, tuple[Effect, ...]]:
    """Return the next state and what is to be done; raises IllegalEvent."""
    try:
        return TABLE[state, event]
    except KeyError:
        raise IllegalEvent(f"{event.name} in state {state.value}") from None


def wire_status(state: State) -> str:
    """Return the status clients see."""
    return state.value if state in TERMINAL else S.RUNNING.value
