"""Changes of all kinds below a folder, at random; as a program it goes on until it is killed."""

import ctypes
import os
import random
import shutil
import sys
from contextlib import suppress

PLACES = ["a", "b", "a/c", "b/c", "a/c/d", "f", "a/f", "b/c/f", "a/c/d/f", "../out"]
AT_FDCWD, RENAME_EXCHANGE = -100, 2
_library = ctypes.CDLL(None)


def exchange(first: str, second: str) -> None:
    """Have two paths lead to each other's files, if both are there (renameat2(2))."""
    ends = [end for path in (first, second) for end in (AT_FDCWD, os.fsencode(path))]
    _library.renameat2(*ends, RENAME_EXCHANGE)


class Storm:
    """One change after the other, the same ones for the same seed and folder."""

    def __init__(self, root: str, seed: int) -> None:
        self._root = root
        self._choose = random.Random(seed)
        self._count = 0

    def change(self) -> None:
        """Change something; what cannot be done changes nothing."""
        self._count += 1
        one, other = (os.path.join(self._root, self._choose.choice(PLACES)) for _ in range(2))
        with suppress(OSError):
            match self._choose.randrange(9):
                case 0 | 1:
                    os.makedirs(one)
                case 2 | 3 | 4:
                    with open(one if one.endswith("f") else one + "/g", "w") as file:
                        file.write(str(self._count))
                case 5 | 6:
                    os.rename(one, other)
                case 7:
                    exchange(one, other)
                case 8:
                    shutil.rmtree(one) if os.path.isdir(one) else os.unlink(one)


if __name__ == "__main__":
    storm = Storm(sys.argv[1], int(sys.argv[2]))
    while True:
        storm.change()
