"""The `sandkeeper` command: without a verb it serves."""

import argparse
import contextlib
import errno
import gc
import os
import sys
from collections.abc import Mapping, Sequence

from sandkeeper import __version__
from sandkeeper.errors import SandkeeperError
from sandkeeper.linux.children.programs import own_code_at_risk
from sandkeeper.linux.identity import Identity, UnusableUser
from sandkeeper.linux.oomscore import protect_from_oom
from sandkeeper.observability.heap import hold_collections
from sandkeeper.settings import IMPORT_URL, BadSettings, Environment, Settings
from sandkeeper.settings.options import (
    add_options,
    help_of_variables,
    is_option,
    options_given,
    port_option,
)
from sandkeeper.settings.sources import load_dotenv, load_env_file
from sandkeeper.settings.token_files import with_token_files
from sandkeeper.upgrade.handover import Handover, NotAHandover

__all__ = ["main"]


DESCRIPTION = """\
Serve the processes, files, terminals and ports of this machine over HTTP.

With another word it is a client of such a server: run, ps, logs, sh, cp, sync, forward and more.
`sandkeeper man` has all of them, `sandkeeper run --help` one; --url and --token name a server.
`sandkeeper fleet --help`: E2B's API from a Kubernetes cluster."""


def _parsed(given: Sequence[str]) -> argparse.Namespace:
    """Read the arguments; of the many options for settings a start without any needs none."""
    parser = _parser()
    if {"-h", "-help", "--help"} & set(given) or any(map(is_option, given)):
        kinds = Settings.kinds()
        add_options(parser, kinds)
        parser.epilog = "\n".join(help_of_variables(kinds))
    return parser.parse_args(given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sandkeeper",
        usage="sandkeeper [serve | archive-baseline] [OPTION ...]",
        description=DESCRIPTION,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    # Every option takes one dash or two, as the contract's do.
    parser.add_argument("-h", "--help", "-help", action="help", help="show this and exit")
    parser.add_argument(
        "verb",
        nargs="?",
        choices=["serve", "archive-baseline"],
        default="serve",
        help="serve (default), or record what the machine looks like for later archives",
    )
    parser.add_argument(
        "--port", "-port", type=port_option, default=8080, help="port (default 8080)"
    )
    parser.add_argument(
        "--p", "-p", type=port_option, default=8080, help="the same; wins unless 8080"
    )
    parser.add_argument(
        "--e2b-port",
        "-e2b-port",
        type=port_option,
        default=0,
        help="port to listen on besides, as E2B's clients expect it (49983; default none)",
    )
    parser.add_argument(
        "--host",
        "-host",
        default="",
        help="address to listen on (default: localhost without a token, unless in a sandbox)",
    )
    parser.add_argument("--command", "-command", default="", help="command to run at start")
    parser.add_argument("--c", "-c", default="", help="the same; wins when given")
    parser.add_argument("--user", "-user", default="", help="user of processes and files")
    parser.add_argument(
        "--disable-telemetry", "-disable-telemetry", action="store_true", help="accepted, unused"
    )
    # How the server before an upgrade starts this one; its number is of no use to anybody else.
    parser.add_argument("--handover", type=int, default=-1, help=argparse.SUPPRESS)
    parser.add_argument(
        "--version",
        "-version",
        action="version",
        version=f"sandkeeper {__version__}",
        help="show the version and exit",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status. As process 1 of a machine it switches that off."""
    if os.getpid() != 1:
        return _main(argv, [])
    from sandkeeper.linux.boot.charge import in_charge

    with in_charge() as told:
        return _main(argv, told)


def _main(argv: Sequence[str] | None, told: Sequence[str]) -> int:
    told = [*told, *_in_a_folder()]
    options = _parsed(sys.argv[1:] if argv is None else argv)
    environment = Environment()
    if options.handover >= 0:
        try:
            return _go_on(Handover.read(options.handover), environment)
        except NotAHandover as error:
            return _refuse(f"nothing to take over: {error}")
    # Before any setting is read: all three may bring settings, and the first to do so wins.
    environment.apply(options_given(options))
    faults = load_dotenv(environment, user=options.user)
    faults += load_env_file(environment, user=options.user)
    try:
        variables = with_token_files(environment.snapshot(), user=options.user)
        settings = Settings.read(
            variables,
            host=options.host,
            port=options.p if options.p != 8080 else options.port,
            command=options.c or options.command,
            user=options.user,
            e2b_port=options.e2b_port,
        )
    except ValueError as error:
        return _refuse_settings(error)
    if options.verb == "archive-baseline":
        return _record_baseline(settings, environment)
    if settings.upgrade.allow:
        from sandkeeper.upgrade.exec import go_on_upgraded

        arguments = sys.argv[1:] if argv is None else argv
        go_on_upgraded(settings.state_dir / "versions", arguments, environment.snapshot())
    return _serve(settings, environment, variables, faults=[*told, *faults])


def _in_a_folder() -> list[str]:
    """Go to `/` when the folder we were started in is gone; returns what to say of it."""
    try:
        os.getcwd()
    except OSError as error:
        os.chdir("/")
        return [f"the folder it was started in cannot be used ({error.strerror}): / stands for it"]
    return []


def _go_on(handover: Handover, environment: Environment) -> int:
    """Take the place of the server that left `handover`.

    Its settings are ours, too. Neither `.env` nor the file of variables is read again: the workload
    has had time to write to them, and they could name what the next upgrade may come from.
    """
    count = handover.count + (not handover.failed)
    variables = {**handover.variables, "SANDBOX_UPGRADE_COUNT": str(count)}
    variables.pop(IMPORT_URL, None)  # a restore is for the first start
    try:
        settings = Settings.read(
            variables,
            host=handover.host,
            port=handover.port,
            command=handover.command,
            user=handover.user,
        )
    except ValueError as error:  # this version may be stricter than the one before
        return _refuse_settings(error)
    return _serve(settings, environment, variables, handover=handover)


def _serve(
    settings: Settings,
    environment: Environment,
    variables: Mapping[str, str],
    *,
    faults: Sequence[str] = (),
    handover: Handover | None = None,
) -> int:
    protect_from_oom()
    try:
        identity = _identity(settings.user)
    except UnusableUser as error:
        return _refuse(f"cannot run as the configured user: {error}")
    at_risk = own_code_at_risk(identity)
    faults = [*faults, *(f"the workload's user can change {place}" for place in at_risk)]
    faults += settings.doubts
    hold_collections()
    # Imported here so that `--version` and `--help` answer at once.
    from sandkeeper.api.app import create_app
    from sandkeeper.api.edge.connections.listening import is_wanted, listen
    from sandkeeper.api.edge.connections.server import serve
    from sandkeeper.linux.allocator import keep_freed_blocks
    from sandkeeper.linux.dispositions import listen_to_ignored
    from sandkeeper.linux.paths.statelock import StateLock
    from sandkeeper.linux.servicemanager import SERVICE_VARIABLES, ServiceManager
    from sandkeeper.sandbox import Sandbox

    try:
        lock = StateLock(settings.state_dir, identity)
    except OSError as error:
        why = f"{error.strerror}; --state-dir takes another"
        return _refuse(f"cannot use the state folder {settings.state_dir}: {why}")
    manager = ServiceManager.named(variables)
    host, port, besides = settings.host, settings.port, settings.ports_besides
    try:
        inherited = handover.listening if handover else ()
        # After an upgrade in place these are numbers of something else.
        given = [] if handover else manager.take(lambda one: is_wanted(one, host, (port, *besides)))
        listeners = listen(host, port, inherited, besides=besides, given=given)
    except OSError as error:
        return _refuse(_why_deaf(settings, error))
    environment.apply({}, remove=SERVICE_VARIABLES)  # what children would say is not about us
    keep_freed_blocks()
    listen_to_ignored()
    with contextlib.ExitStack() as stack:
        for listener in listeners:
            stack.enter_context(listener)
        stack.enter_context(contextlib.closing(lock))
        try:
            sandbox = Sandbox(
                settings, environment, identity, variables=variables, handover=handover
            )
        except OSError as error:
            return _refuse(f"cannot start: {error.filename or 'the log'}: {error.strerror}")
        for fault in faults:
            sandbox.log.warning(f"environment: {fault}")
        if identity is not None and settings.rights.may:
            permitted = ", ".join(sorted(settings.rights.may))
            sandbox.log.warning(f"SANDKEEPER_WORKLOAD_MAY gives the workload: {permitted}")
        for line in lock.told:
            sandbox.log.error(line)
        connections = handover.connections if handover else ()
        try:
            serve(create_app(sandbox), sandbox, listeners, connections, manager)
        except SandkeeperError as error:
            return _refuse(f"cannot start: {error}")
    return 0


def _why_deaf(settings: Settings, error: OSError) -> str:
    """Say why a socket could not be bound, and which option helps."""
    # The library repeats the address behind the system's words.
    why = str(error.strerror).partition(" (while ")[0]
    advice = {
        errno.EADDRINUSE: f"; --port {settings.port + 1 if settings.port < 65535 else 0} or another"
        " (0: any that is free) takes another port",
        errno.EACCES: "; --port takes another port, from 1024 on everybody may",
        errno.EADDRNOTAVAIL: "; --host takes another address",
    }.get(error.errno or 0, "; --host and --port take others")
    return f"cannot listen on {settings.host}:{settings.port}: {why}{advice}"


def _identity(user: str) -> Identity | None:
    """Find the workload's user and try it out; raises UnusableUser."""
    if not user:
        return None
    identity = Identity.resolve(user)
    identity.check()
    return identity


def _record_baseline(settings: Settings, environment: Environment) -> int:
    from sandkeeper.archive.baseline import record_baseline

    gc.enable()  # this looks at everything on the disk
    try:
        count = record_baseline(settings, environment)
    except OSError as error:
        return _refuse(f"cannot record a baseline: {error}")
    sys.stdout.write(f"{count} entries recorded in {settings.state_dir / 'archive/baseline'}\n")
    return 0


def _refuse_settings(error: ValueError) -> int:
    for fault in error.faults if isinstance(error, BadSettings) else [str(error)]:
        _refuse(f"a setting makes no sense: {fault}")
    return 2


def _refuse(why: str) -> int:
    sys.stderr.write(f"sandkeeper: {why}\n")
    return 1
