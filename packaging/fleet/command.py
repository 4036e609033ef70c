"""Starts and ends a cluster: `scripts/fleet-cluster up [--node] [--kwok]`, and `down`."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cluster
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


def main() -> None:
    """Start or end a cluster.

    :raises SystemExit: there is one in that folder already, or it did not start.
    """
    parser = argparse.ArgumentParser(prog="scripts/fleet-cluster", description=__doc__)
    parser.add_argument("what", choices=["up", "down"])
    default = Path(os.environ.get("TMPDIR") or "/tmp") / f"sandkeeper-fleet-{os.getuid()}"
    parser.add_argument("--state", type=Path, default=default, help="the folder for all it keeps")
    parser.add_argument("--node", action="store_true", help="this machine is a node; needs root")
    parser.add_argument("--kwok", action="store_true", help=f"{cluster.NODES} nodes of kwok")
    options = parser.parse_args()
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
        if isinstance(error, cluster.Failed):
            raise SystemExit(f"sandkeeper: {error}") from error
        raise
    print(f"export KUBECONFIG={made.kubeconfig}")
    print(f"sandkeeper: agent-sandbox's router listens at {made.router}", file=sys.stderr)


if __name__ == "__main__":
    main()
