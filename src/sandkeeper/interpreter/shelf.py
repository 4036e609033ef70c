"""All executions by id, those that are over as long as there is room for them."""

from collections import OrderedDict
from collections.abc import Callable

from sandkeeper.interpreter.execution import Execution
from sandkeeper.settings import CodeSettings

__all__ = ["Shelf"]


class Shelf:
    """Keeps so many executions, and bytes of them, as the settings say; `forget` removes one."""

    def __init__(self, settings: CodeSettings, forget: Callable[[Execution], None]) -> None:
        self._settings = settings
        self._forget = forget
        self._known: OrderedDict[str, Execution] = OrderedDict()

    def put(self, execution: Execution) -> None:
        """Take one in."""
        self._known[execution.meta.id] = execution

    def get(self, identifier: str) -> Execution | None:
        """Return one."""
        return self._known.get(identifier)

    def drop(self, execution: Execution) -> None:
        """Forget one that somebody else removes."""
        self._known.pop(execution.meta.id, None)

    def bound(self) -> None:
        """Forget the oldest of those that are over, past the bounds."""
        over = [one for one in self._known.values() if one.is_over]
        size = sum(one.meta.size for one in over)
        surplus = len(over) - self._settings.kept
        for number, execution in enumerate(over[:-1]):
            if number >= surplus and size <= self._settings.total_bytes:
                return
            size -= execution.meta.size
            self.drop(execution)
            self._forget(execution)
