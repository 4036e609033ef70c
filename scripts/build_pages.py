"""hatchling's hook: a wheel or an archive of the sources has the pages, or there is none.

An editable installation goes without: `scripts/install` makes the pages when they can be made.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Pages(BuildHookInterface):
    """Makes what the pages are made of before files are packed."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Raises SystemExit, with one sentence, where that fails."""
        if version == "editable":
            return
        # The build's own Python may hide its pip: the one it was made from has it.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        python = environment.setdefault("PYTHON", sys.executable)
        done = subprocess.run([Path(self.root) / "scripts" / "web"], env=environment, check=False)
        if done.returncode:
            raise SystemExit(
                "sandkeeper: the pages cannot be built, so there is no wheel; npm, or a package "
                f"index from which {python} can fetch one, is needed."
            )
