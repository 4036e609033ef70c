"""What an export compares the machine with: an image, an overlay's layers, a baseline, a moment.

The first that there is counts: the mount point or device that the request names, the operator's
`SANDKEEPER_ARCHIVE_IMAGE`, the lower layers if the root is an overlay, a recorded baseline, and
last the moment at which the server first started here. That moment tells no deletions; whoever
must not miss any asks for more with `SANDKEEPER_ARCHIVE_BASELINE=required`. Everything here blocks.
"""

import filecmp
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sandkeeper.archive.readonly import mount_image, mount_layers
from sandkeeper.archive.recorded import BadBaseline, Baseline
from sandkeeper.archive.snapshot import LeftOut, TreeChange, TreeEntry, compare, look, similar
from sandkeeper.errors import BadInput, Internal
from sandkeeper.linux.birth import birth_time
from sandkeeper.linux.mounts import mounts, unescape, unmount

__all__ = ["Pristine", "choose"]

Check = Callable[[], None]
SAMPLE = 200


@dataclass
class Pristine(ABC):
    """Something to compare with; `basis` names its kind, `device` the image's if it has one."""

    basis: str
    device: str = ""
    mounted: str = ""

    @abstractmethod
    def changes(self, root: str, left_out: LeftOut, check: Check) -> Iterator[TreeChange]:
        """Yield what changed below `root`, in order; raises OSError, Internal."""

    def close(self) -> None:
        """Unmount what was mounted to look at."""
        if self.mounted:
            unmount(self.mounted, lazy=True)
            self.mounted = ""


@dataclass
class _Tree(Pristine):
    """A directory with the pristine files."""

    path: str = ""

    def changes(self, root: str, left_out: LeftOut, check: Check) -> Iterator[TreeChange]:
        old = look(self.path, LeftOut(left_out.paths), check)

        def same(old: TreeEntry, new: TreeEntry) -> bool:
            # Through an overlay an untouched file shows the change time of its layer. Another one
            # means that somebody wrote to it, or that it is a copy: then only its bytes tell.
            if not similar(old.facts, new.facts):
                return False
            if old.facts.ctime == new.facts.ctime or not stat.S_ISREG(new.facts.mode):
                return True
            check()
            return filecmp.cmp(old.full, new.full, shallow=False)

        yield from compare(look(root, left_out, check), old, left_out, same)
        filecmp.clear_cache()


@dataclass
class _Recorded(Pristine):
    """A baseline that was recorded before."""

    baseline: Baseline | None = None

    def changes(self, root: str, left_out: LeftOut, check: Check) -> Iterator[TreeChange]:
        baseline = self.baseline
        assert baseline is not None
        left_out.paths.update(baseline.left_out)
        exact = baseline.on_this_disk

        def same(old: TreeEntry, new: TreeEntry) -> bool:
            if not similar(old.facts, new.facts):
                return False
            regular = stat.S_ISREG(new.facts.mode)
            return not (exact and regular) or old.facts.ctime == new.facts.ctime

        try:
            yield from compare(look(root, left_out, check), baseline.entries(), left_out, same)
        except BadBaseline as error:
            raise Internal(f"the recorded baseline cannot be used: {error}") from None


@dataclass
class _Since(Pristine):
    """A moment, in nanoseconds: what was created or changed after it has a later change time."""

    moment: int = 0

    def changes(self, root: str, left_out: LeftOut, check: Check) -> Iterator[TreeChange]:
        # A directory that was moved keeps the times of all that is in it. Whether one was moved or
        # only got other entries cannot be told, so everything below such a one is taken.
        top = os.stat(root)
        path = [("", top.st_mtime_ns >= self.moment, False)]
        for entry in look(root, left_out, check):
            while path[-1][0] and not entry.path.startswith(path[-1][0]):
                path.pop()
            _, above_changed, whole = path[-1]
            changed = whole or entry.facts.ctime >= self.moment
            new = changed and self._is_new(entry)
            if entry.is_directory:
                moved = changed and above_changed and not new
                touched = entry.facts.mtime >= self.moment
                path.append((entry.path + "/", touched, whole or moved))
            if changed:
                yield TreeChange("added" if new else "modified", entry.path, entry)

    def _is_new(self, entry: TreeEntry) -> bool:
        born = birth_time(entry.full)
        return born is not None and born >= self.moment


def choose(
    root: str, state: Path, *, device: str, mount_point: str, image: str, required: bool
) -> Pristine:
    """Return what to compare `root` with; close it afterwards.

    Raises BadInput for a named image that is none, Internal when one cannot be used or when
    nothing is there that would tell deletions although `required` asks for it.
    """
    if not os.path.isdir(root):
        raise Internal(f"what is to be archived, {root}, is no directory")
    if named := _named(state, device, mount_point, image):
        return named
    layers = _layers(root)
    if layers:
        return _overlay(layers, state)
    if (state / "archive/baseline").exists():
        return _Recorded("baseline", baseline=_baseline(root, state / "archive"))
    if required:
        raise Internal(
            "there is nothing to compare the machine with: name imageDevice or imageMountPoint, or "
            "run `sandkeeper archive-baseline` while the machine is as it should be; nothing was "
            "stopped"
        )
    try:
        return _Since("first-start", moment=os.stat(state / "first-start").st_mtime_ns)
    except OSError as error:
        raise Internal(f"when the server first started here is not known: {error}") from None


def _named(state: Path, device: str, mount_point: str, image: str) -> Pristine | None:
    if mount_point:
        if not os.path.isdir(mount_point):
            raise BadInput(f"imageMountPoint {mount_point} is no directory")
        return _Tree("image", device, path=mount_point)
    if device:
        return _device(device, state, BadInput)
    if os.path.isdir(image):
        return _Tree("image", path=image)
    return _device(image, state, Internal) if image else None


def _baseline(root: str, folder: Path) -> Baseline:
    try:
        baseline = Baseline(folder)
    except (BadBaseline, OSError) as error:
        raise Internal(f"the recorded baseline cannot be used: {error}") from None
    if baseline.root != root:
        raise Internal(f"the recorded baseline is of {baseline.root}, not of {root}")
    return baseline


def _device(device: str, state: Path, kind: type[BadInput | Internal]) -> Pristine:
    if not os.path.exists(device) or not stat.S_ISBLK(os.stat(device).st_mode):
        raise kind(f"image device {device} is no block device")
    target = _mount_point(state)
    try:
        mount_image(device, target)
    except OSError as error:
        raise Internal(f"cannot mount the image device {device}: {error.strerror}") from None
    return _Tree("image", device, mounted=target, path=target)


def _overlay(layers: list[str], state: Path) -> Pristine:
    if len(layers) == 1:
        return _Tree("overlay", path=layers[0])
    target = _mount_point(state)
    try:
        mount_layers(layers, target)
    except OSError as error:
        raise Internal(f"cannot mount the layers of the root: {error.strerror}") from None
    return _Tree("overlay", mounted=target, path=target)


def _mount_point(state: Path) -> str:
    """Make the place for an image; what a killed server left mounted there goes first."""
    target = Path(os.path.realpath(state / "archive/image"))  # as the kernel's table names it
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(OSError):
        unmount(str(target), lazy=True)
    return str(target)


def _layers(root: str) -> list[str]:
    """Return the lower layers if `root` is an overlay and they can be seen from here; else none.

    After a pivot_root(2) their paths may lead elsewhere, so they must show files of the root.
    """
    found = [mount for mount in mounts() if mount.path == root]
    if not found or found[-1].kind != "overlay":
        return []
    layers: list[str] = []
    for option in found[-1].options:
        name, _, value = unescape(option).partition("=")
        if name == "lowerdir":
            layers += _split(value)
        elif name == "lowerdir+":
            layers.append(value)
    if not layers or not all(os.path.isdir(layer) for layer in layers):
        return []
    return layers if any(_belongs(layer, root) for layer in layers) else []


def _split(value: str) -> list[str]:
    parts = value.replace("\\:", "\0").split(":")
    return [part.replace("\0", ":") for part in parts if part]


def _belongs(layer: str, root: str) -> bool:
    """Say whether a directory shows files of the overlay and does not lie in it itself."""
    looked = 0
    try:
        if os.stat(layer).st_dev == os.stat(root).st_dev:
            return False
        for entry in look(layer, LeftOut([]), lambda: None):
            if not stat.S_ISREG(entry.facts.mode):
                continue
            with suppress(OSError):
                if os.lstat(os.path.join(root, entry.path)).st_ctime_ns == entry.facts.ctime:
                    return True
            looked += 1
            if looked >= SAMPLE:
                return False
    except OSError:
        return False
    return False
