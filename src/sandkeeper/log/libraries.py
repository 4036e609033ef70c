"""What libraries warn of goes into our log: Python would write it to standard error."""

import logging

from sandkeeper.log.lines import Log

__all__ = ["adopt_libraries"]

TEXT_CHARACTERS = 8000


class _Lines(logging.Handler):
    """Puts warnings and errors into our log, where nothing blocks."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; `source` is the library."""
        level = "error" if record.levelno >= logging.ERROR else "warning"
        source = record.name.partition(".")[0]
        self._log.write(level, self.format(record)[:TEXT_CHARACTERS], source=source)


def adopt_libraries(log: Log) -> None:
    """Have all loggers that have no handler of their own write to `log`."""
    logging.getLogger().handlers = [_Lines(log)]
