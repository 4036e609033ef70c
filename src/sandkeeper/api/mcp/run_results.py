"""What an execution said, as an agent reads it: the last of its output, results without bulk."""

import re
from collections import deque
from typing import Any

import msgspec

from sandkeeper.interpreter.events import CHART, DATAFRAME
from sandkeeper.interpreter.execution import Event, EventStream

__all__ = ["Collected", "LanguageError", "Results"]

OUTPUT_CHARACTERS = 64 << 10
VALUE_CHARACTERS = 64 << 10
BUNDLES, BUNDLES_CHARACTERS = 64, 1 << 20
IMAGES, IMAGES_CHARACTERS = 8, 6 << 20
PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
READABLE = ("text/plain", "text/markdown", "application/json", "text/latex")
"""Of a result that has one of these, pages and scripts are left out."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class LanguageError(msgspec.Struct):
    """An error as the language tells it."""

    name: str
    value: str
    traceback: str


class Tail:
    """The last characters of a text that comes in parts."""

    def __init__(self) -> None:
        self._parts: deque[str] = deque()
        self._size = 0
        self.cut = False

    def add(self, part: str) -> None:
        """Add a part."""
        self._parts.append(part)
        self._size += len(part)
        while self._size > OUTPUT_CHARACTERS:
            first = self._parts.popleft()
            kept = first[self._size - OUTPUT_CHARACTERS :]
            self._size += len(kept) - len(first)
            self.cut = True
            if kept:
                self._parts.appendleft(kept)

    def text(self) -> str:
        """Return what is kept."""
        return "".join(self._parts)


class Results:
    """What is shown."""

    def __init__(self) -> None:
        self.stdout, self.stderr = Tail(), Tail()
        self.bundles: list[dict[str, Any]] = []
        self.images: list[tuple[str, str]] = []
        self.error: LanguageError | None = None
        self._cut = False
        self._size = self._pictured = 0

    @property
    def truncated(self) -> bool:
        """Whether something is left out."""
        return self._cut or self.stdout.cut or self.stderr.cut

    def lose(self) -> None:
        """Note that something is not there."""
        self._cut = True

    def show(self, bundle: dict[str, Any]) -> None:
        """Add a result: its readable kinds as they are, pictures apart."""
        shown = dict(self._readable(bundle))
        for kind in PICTURES:
            if kind in bundle and self._has_room_for(bundle[kind]):
                self.images.append((kind, str(bundle[kind])))
                shown[kind] = f"picture {len(self.images)}"
        size = len(msgspec.json.encode(shown))
        if len(self.bundles) >= BUNDLES or self._size + size > BUNDLES_CHARACTERS:
            self._cut = True
            return
        self._size += size
        self.bundles.append(shown)

    def _readable(self, bundle: dict[str, Any]) -> dict[str, Any]:
        readable = any(kind in bundle for kind in READABLE)
        found = {}
        for kind, value in bundle.items():
            if kind in PICTURES or kind in (CHART, DATAFRAME):
                continue
            if kind not in READABLE and readable:
                continue
            if isinstance(value, str):
                found[kind] = value[:VALUE_CHARACTERS]
                self._cut = self._cut or len(value) > VALUE_CHARACTERS
            elif len(msgspec.json.encode(value)) <= VALUE_CHARACTERS:
                found[kind] = value
            else:
                self._cut = True
        return found

    def _has_room_for(self, picture: Any) -> bool:
        self._pictured += len(str(picture))
        if len(self.images) < IMAGES and self._pictured <= IMAGES_CHARACTERS:
            return True
        self._cut = True
        return False


class Collected:
    """Takes events in; `cursor` is where to go on."""

    def __init__(self, cursor: int) -> None:
        self.cursor = cursor
        self.over = False
        self.results = Results()

    async def take(self, event: Event) -> None:
        """Take one."""
        self.cursor = event.cursor
        results = self.results
        if event.kind == "stdout":
            results.stdout.add(event.text)
        elif event.kind == "stderr":
            results.stderr.add(event.text)
        elif event.kind in {"result", "display"}:
            results.show((await EventStream.fields_of(event))["data"])
        elif event.kind == "error":
            fields = await EventStream.fields_of(event)
            lines = _COLOURS.sub("", "\n".join(fields["traceback"]))
            results.error = LanguageError(fields["name"], fields["value"], lines[:VALUE_CHARACTERS])
        elif event.kind == "gap":
            results.lose()
        elif event.kind == "end":
            self.over = True
