"""The past of running processes: how much of it is kept, and whose."""

from sandkeeper.observability.run_history import ROWS, RUNS, Past


def test_the_last_rows_of_a_bounded_number_of_runs_are_kept() -> None:
    past, first = Past(), [f"first-{number}" for number in range(RUNS)]
    assert past.page("first-0")["times"] == []
    for moment in range(ROWS + 5):
        past.add(dict.fromkeys([*first, "late"], (moment, moment, 1, 2, 3, 4, 5)))

    page = past.page("first-0")
    assert page["times"] == page["figures"]["cpuPercent"] == list(range(5, ROWS + 5))
    assert page["figures"]["stderrBytes"] == [5] * ROWS
    assert past.page("late")["times"] == []

    # One that is over is kept until another one needs its place.
    running = first[1:]
    past.add(dict.fromkeys(running, (ROWS + 5, 0, 1, 2, 3, 4, 5)))
    assert len(past.page("first-0")["times"]) == ROWS
    past.add(dict.fromkeys([*running, "late"], (ROWS + 6, 0, 1, 2, 3, 4, 5)))
    assert past.page("first-0")["times"] == []
    assert past.page("late")["times"] == [ROWS + 6]
    assert past.page("first-1", since=ROWS + 5.0)["times"] == [ROWS + 6]
