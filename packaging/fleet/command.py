"""Starts and ends a cluster: `scripts/fleet-cluster up [--node] [--kwok]`, and `down`.

`guard --of PID` waits for the end of whoever has one running and ends what that one did not: a
script that is killed puts nothing back.
"""

import argparse
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cluster
import daemons
import node


def down(made: cluster.Cluster) -> None:
    """End a cluster and put back what its node has changed of this machine."""
    try:
        if "machine" in made.known:
            node.give_back(made)
    finally:
        made.down()


@contextmanager
def running(folder: Path) -> Iterator[cluster.Cluster]:
    """Run a cluster for as long as the block lasts."""
    made = cluster.Cluster(folder)
    try:
        made.up()
        yield made
    finally:
        down(made)


def guard(folder: Path, pid: int) -> None:
    """Wait for the end of a process, then end its tests and its cluster, if these are left.

    The tests of a script that was killed go on; their number is in `tests` of the folder.
    """
    with open(os.pidfd_open(pid), "rb", closefd=True) as handle:
        select.select([handle], [], [])
    if not folder.exists():
        return
    tests = folder / "tests"
    if tests.exists():
        number, start = tests.read_text().split()
        if daemons.started_at(int(number)) == start:
            os.kill(int(number), signal.SIGKILL)
            daemons.wait(lambda: not daemons.started_at(int(number)), "the end of the tests", 30)
    down(cluster.Cluster(folder))


def main() -> None:
    """Start or end a cluster.

    :raises SystemExit: there is one in that folder already, or it did not start.
    """
    parser = argparse.ArgumentParser(prog="scripts/fleet-cluster", description=__doc__)
    parser.add_argument("what", choices=["up", "down", "guard", "note"])
    default = Path(os.environ.get("TMPDIR") or "/tmp") / f"sandkeeper-fleet-{os.getuid()}"
    parser.add_argument("--state", type=Path, default=default, help="the folder for all it keeps")
    parser.add_argument("--node", action="store_true", help="this machine is a node; needs root")
    parser.add_argument("--kwok", action="store_true", help=f"{cluster.NODES} nodes of kwok")
    parser.add_argument("--of", type=int, help="guard: whose end; note: whose number to note")
    options = parser.parse_args()
    if options.what == "guard":
        guard(options.state.resolve(), options.of)
        return
    if options.what == "note":
        (options.state / "tests").write_text(f"{options.of} {daemons.started_at(options.of)}")
        return
    made = cluster.Cluster(options.state.resolve())
    if options.what == "down":
        down(made)
        return
    if made.known:
        raise SystemExit(f"sandkeeper: one runs already, in {options.state}")
    try:
        made.up()
        if options.node:
            node.up(made)
        if options.kwok:
            cluster.kwok(made)
    except BaseException as error:
        down(made)
        if isinstance(error, daemons.Failed):
            raise SystemExit(f"sandkeeper: {error}") from error
        raise
    print(f"export KUBECONFIG={made.kubeconfig}")
    print(f"sandkeeper: agent-sandbox's router listens at {made.router}", file=sys.stderr)


if __name__ == "__main__":
    main()
