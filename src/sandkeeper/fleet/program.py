"""`sandkeeper fleet`: its options, its start."""

import argparse
import contextlib
import os
import socket
import sys
from collections.abc import Sequence

from msgspec.structs import replace

from sandkeeper import __version__
from sandkeeper.api.edge.connections.listening import listen
from sandkeeper.api.edge.connections.server import serve
from sandkeeper.errors import SandkeeperError
from sandkeeper.fleet.app import create_app
from sandkeeper.fleet.routing import leads
from sandkeeper.fleet.services import FleetServices
from sandkeeper.linux.machine import raise_file_limit
from sandkeeper.linux.servicemanager import ServiceManager
from sandkeeper.log.lines import Log
from sandkeeper.settings import BadSettings, Environment, Settings
from sandkeeper.settings.fleet import CATALOGUE, SECRETS, FleetSettings
from sandkeeper.settings.options import add_options, help_of_variables, options_given, port_option
from sandkeeper.settings.token_files import with_token_files
from sandkeeper.settings.variables import Variables

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    environment = Environment()
    options = _parser().parse_args(argv)
    environment.apply(options_given(options, CATALOGUE))
    try:
        variables = with_token_files(environment.snapshot(), names=SECRETS)
        own = FleetSettings.read(Variables(variables), host=options.host)
    except ValueError as error:
        faults = error.faults if isinstance(error, BadSettings) else [str(error)]
        for fault in faults:
            _refuse(f"a setting makes no sense: {fault}")
        return 2
    settings = Settings(
        host=own.host,
        port=options.port,
        edge=replace(own.edge, port_names=own.names),
        log=own.log,
        rights=own.rights,
    )
    try:
        listeners = listen(own.host, options.port)
    except OSError as error:
        return _refuse(f"cannot listen on {own.host}:{options.port}: {error.strerror}")
    raise_file_limit()
    with contextlib.ExitStack() as stack:
        for listener in listeners:
            stack.enter_context(listener)
        try:
            services = FleetServices(own, settings, environment)
        except OSError as error:
            return _refuse(f"cannot start: {error.filename or 'the log'}: {error.strerror}")
        try:
            serve(
                create_app(services),
                services,
                listeners,
                manager=ServiceManager.named(variables),
                tell=_tell,
                leads=leads,
            )
        except SandkeeperError as error:
            return _refuse(f"cannot start: {error}")
    return 0


def _parser() -> argparse.ArgumentParser:
    kinds = FleetSettings.kinds()
    parser = argparse.ArgumentParser(
        prog="sandkeeper fleet",
        description="Serve E2B's API from the sandboxes of a Kubernetes cluster (agent-sandbox).",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(help_of_variables(kinds, CATALOGUE)),
    )
    parser.add_argument(
        "--port", type=port_option, default=8080, help="port (default 8080; 0: any)"
    )
    parser.add_argument("--host", default="", help="address to listen on (default 0.0.0.0)")
    add_options(parser, kinds, CATALOGUE)
    return parser


def _tell(log: Log, _settings: Settings, listeners: Sequence[socket.socket]) -> None:
    names = [listener.getsockname()[:2] for listener in listeners]
    where = " and ".join(f"http://{host}:{port}" for host, port in names)
    log.info(f"sandkeeper {__version__} fleet listens on {where}, as process {os.getpid()}")


def _refuse(why: str) -> int:
    sys.stderr.write(f"sandkeeper fleet: {why}\n")
    return 1
