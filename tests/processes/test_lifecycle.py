"""The life of a process: the table as a whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandkeeper.processes.lifecycle import (
    TABLE,
    TERMINAL,
    Effect,
    Event,
    IllegalEvent,
    State,
    step,
    wire_status,
)

LIVING = [state for state in State if state not in TERMINAL]


def reachable(start: State) -> set[State]:
    seen, todo = {start}, [start]
    while todo:
        state = todo.pop()
        for (before, _), (after, _) in TABLE.items():
            if before == state and after not in seen:
                seen.add(after)
                todo.append(after)
    return seen


def test_every_state_is_reachable_and_every_one_can_end() -> None:
    assert reachable(State.RUNNING) == set(State)
    for state in LIVING:
        assert reachable(state) & TERMINAL


@pytest.mark.parametrize("state", sorted(TERMINAL))
@pytest.mark.parametrize("event", list(Event))
def test_terminal_states_are_never_left(state: State, event: Event) -> None:
    with pytest.raises(IllegalEvent):
        step(state, event)


def test_pairs_outside_of_the_table_are_illegal() -> None:
    for state in State:
        for event in Event:
            if (state, event) not in TABLE:
                with pytest.raises(IllegalEvent, match=event.name):
                    step(state, event)


def test_the_end_is_told_exactly_when_a_terminal_state_is_entered() -> None:
    for after, effects in TABLE.values():
        assert (Effect.FINISH in effects) == (after in TERMINAL)


@pytest.mark.parametrize("state", LIVING)
def test_every_living_process_can_be_stopped_and_killed(state: State) -> None:
    for event in (Event.STOP, Event.KILL):
        assert (state, event) in TABLE


@pytest.mark.parametrize("state", [State.STOPPING, State.KILLING])
def test_after_somebody_said_stop_nothing_is_started_again(state: State) -> None:
    assert State.RUNNING not in reachable(state)
    assert State.BACKOFF not in reachable(state)
    for (before, _), (_, effects) in TABLE.items():
        if before == state:
            assert Effect.START not in effects
            assert Effect.SCHEDULE_RETRY not in effects


@given(st.lists(st.sampled_from(list(Event)), max_size=40))
def test_any_history_keeps_to_the_wires_five_words(events: list[Event]) -> None:
    state = State.RUNNING
    for event in events:
        if (state, event) in TABLE:
            state, _ = step(state, event)
        assert wire_status(state) in {"running", "completed", "failed", "stopped", "killed"}
        assert (wire_status(state) == "running") == (state not in TERMINAL)
