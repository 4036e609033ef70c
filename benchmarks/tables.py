"""Rows and tables of measurements."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Row", "percentile", "print_table"]


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure: `reached` says whether it meets the target (None: no target)."""

    what: str
    value: str
    target: str = ""
    reached: bool | None = None
    note: str = ""


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the `percent`th percentile by nearest rank; the median for 50."""
    if percent == 50:
        return statistics.median(values)
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def print_table(title: str, rows: Sequence[Row]) -> None:
    """Print a Markdown table."""
    print(f"\n### {title}\n")
    print("| what | measured | to reach | reached | note |")
    print("|---|---|---|---|---|")
    for row in rows:
        reached = {True: "yes", False: "no", None: ""}[row.reached]
        print(f"| {row.what} | {row.value} | {row.target} | {reached} | {row.note} |", flush=True)
