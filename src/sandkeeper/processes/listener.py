"""Who hears of processes."""

from typing import Protocol

from sandkeeper.processes.process import Process

__all__ = ["Listener"]


class Listener(Protocol):
    """Whoever hears of all processes: the telemetry."""

    def follow(self, process: Process) -> None:
        """There is a new one, or one that was found again."""

    def grown(self, process: Process) -> None:
        """It has written something or ended."""

    def forget(self, process: Process) -> None:
        """Its output goes away."""

    def retry(self) -> None:
        """What could not be read may be readable again."""
