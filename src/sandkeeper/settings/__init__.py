"""Every setting, read once into frozen objects: `Settings` is what was decided at the start.

`Environment` is the live environment that children inherit; an environment reload changes it.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec.structs import replace

from sandkeeper.linux.addresses import is_loopback
from sandkeeper.linux.surroundings import platform_sign, sandbox_sign
from sandkeeper.numerals import natural
from sandkeeper.settings.code import CodeSettings
from sandkeeper.settings.environment import IMPORT_URL, Environment
from sandkeeper.settings.groups import (
    ArchiveSettings,
    DriveSettings,
    E2bSettings,
    EdgeSettings,
    EgressSettings,
    FileSettings,
    LogSettings,
    RetentionSettings,
    TerminalSettings,
    UpgradeSettings,
    origin,
)
from sandkeeper.settings.kubernetes import GRPC_PORT, KubernetesSettings
from sandkeeper.settings.otlp import OtlpSettings
from sandkeeper.settings.port_names import BLAXEL_CODE_PORT, CODE_PORTS
from sandkeeper.settings.rights import TOKEN_VARIABLES, RightsSettings
from sandkeeper.settings.variables import BadSettings, Kind, Variables, truthy

__all__ = [
    "IMPORT_URL",
    "LOCALHOST",
    "TOKEN_VARIABLES",
    "ArchiveSettings",
    "BadSettings",
    "CodeSettings",
    "DriveSettings",
    "E2bSettings",
    "EdgeSettings",
    "EgressSettings",
    "Environment",
    "FileSettings",
    "Kind",
    "KubernetesSettings",
    "LogSettings",
    "OtlpSettings",
    "RetentionSettings",
    "RightsSettings",
    "Settings",
    "TerminalSettings",
    "UpgradeSettings",
    "origin",
    "truthy",
    "workload_user",
]

MIB = 1 << 20
EVERYWHERE = "0.0.0.0"
LOCALHOST = "localhost"
ISOLATION = "BL_SANDBOX_API_ISOLATION"
SCALE_FILE = Path("/uk/libukp/scale_to_zero_disable")


def _default_state_dir(env: Mapping[str, str]) -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/sandkeeper")
    base = env.get("XDG_STATE_HOME") or os.path.join(env.get("HOME") or "/tmp", ".local", "state")
    return Path(base) / "sandkeeper"


def workload_user(env: Mapping[str, str]) -> str:
    """Return the workload's user as the contract's variables name it, or an empty string."""
    enabled = truthy(env.get("BL_SANDBOX_USER_ENABLED", "")) or truthy(env.get(ISOLATION, ""))
    return env.get("BL_SANDBOX_USER", "") if enabled else ""


def _workload_user(env: Variables) -> str:
    env.flag("BL_SANDBOX_USER_ENABLED")  # said if it is neither: the workload would run as we do
    return workload_user(env)


def _code_port(text: str) -> int:
    port = natural(text, 65535)
    if port not in CODE_PORTS:
        known = " and ".join(map(str, sorted(CODE_PORTS)))
        raise ValueError(f"SANDKEEPER_CODE_PORTS: {text!r} is none of {known}")
    return port


class Settings(msgspec.Struct, frozen=True):
    """What was decided at start; `mcp_wait` is how many seconds a tool call waits at most.

    `host` `localhost` is both loopback addresses. `sandbox` tells why this is taken for a sandbox,
    and so listens everywhere without a token; empty when nobody had to know. `isolated`: the
    workload's processes may not connect to the API. `code_listening` are ports of code interpreters
    on which this server listens, too. `doubts` are lines about
    variables that are not obeyed.
    """

    host: str = LOCALHOST
    port: int = 8080
    sandbox: str = ""
    command: str = ""
    user: str = ""
    state_dir: Path = Path("/var/lib/sandkeeper")
    workdir: str = "/"
    processing_time: bool = False
    scale_file: Path = SCALE_FILE
    keepalive_allowed: bool = True
    body_limit: int = 16 * MIB
    bodies_limit: int = 256 * MIB
    mcp_wait: int = 58
    stop_children: bool = False
    code_listening: tuple[int, ...] = ()
    isolated: bool = False
    doubts: tuple[str, ...] = ()
    rights: RightsSettings = msgspec.field(default_factory=RightsSettings)
    retention: RetentionSettings = msgspec.field(default_factory=RetentionSettings)
    log: LogSettings = msgspec.field(default_factory=LogSettings)
    terminal: TerminalSettings = msgspec.field(default_factory=TerminalSettings)
    files: FileSettings = msgspec.field(default_factory=FileSettings)
    code: CodeSettings = msgspec.field(default_factory=CodeSettings)
    e2b: E2bSettings = msgspec.field(default_factory=E2bSettings)
    kubernetes: KubernetesSettings = msgspec.field(default_factory=KubernetesSettings)
    egress: EgressSettings = msgspec.field(default_factory=EgressSettings)
    drives: DriveSettings = msgspec.field(default_factory=DriveSettings)
    edge: EdgeSettings = msgspec.field(default_factory=EdgeSettings)
    archive: ArchiveSettings = msgspec.field(default_factory=ArchiveSettings)
    upgrade: UpgradeSettings = msgspec.field(default_factory=UpgradeSettings)
    otlp: OtlpSettings = msgspec.field(default_factory=OtlpSettings)

    @property
    def token(self) -> str:
        """The token that opens the API; empty when none is needed."""
        return self.rights.token

    @property
    def ports_besides(self) -> tuple[int, ...]:
        """The ports to listen on beside the first, as clients of other wires know theirs."""
        wanted = (self.e2b.port, self.kubernetes.runtime_port, *self.code_listening)
        return tuple(dict.fromkeys(port for port in wanted if port not in {0, self.port}))

    @property
    def code_ports(self) -> frozenset[int]:
        """The ports for which this server answers as a code interpreter when nobody else does."""
        return frozenset(CODE_PORTS if self.e2b.enabled else (BLAXEL_CODE_PORT,))

    @classmethod
    def read(
        cls,
        env: Mapping[str, str],
        *,
        host: str = "",
        port: int = 8080,
        command: str = "",
        user: str = "",
        e2b_port: int = 0,
        root: Path = Path("/"),
    ) -> "Settings":
        """Build the settings from `env` and the command line's values.

        Without an address a server with a token listens everywhere, one without does so in a
        sandbox only, whose marks are looked for below `root`. Raises BadSettings, with a line for
        each value that makes no sense.
        """
        variables = Variables(env)
        made = cls._made(variables, host, port, command, user, e2b_port, root)
        if variables.faults:
            raise BadSettings(variables.faults)
        return replace(made, doubts=(*variables.doubts, *variables.unknown()))

    @classmethod
    def kinds(cls) -> Mapping[str, Kind]:
        """Return how every variable is read, by those who read it."""
        variables = Variables({})
        cls._made(variables, "", 0, "", "", 0, Path("/"))
        return variables.kinds

    @classmethod
    def _made(
        cls,
        env: Variables,
        host: str,
        port: int,
        command: str,
        user: str,
        e2b_port: int,
        root: Path,
    ) -> "Settings":
        # Read when it is needed, for an environment reload may bring it; looked at now as well.
        env.flag("SANDKEEPER_LOCAL_CODEGEN")
        env.seconds("SANDKEEPER_CODEGEN_TIMEOUT", 60.0)
        state = env.get("SANDKEEPER_STATE_DIR", "")
        state_dir = Path(state) if state else _default_state_dir(env)
        host = host or env.get("SANDKEEPER_HOST", "")
        rights = RightsSettings.read(env)
        user = user or _workload_user(env)
        isolated = env.flag(ISOLATION)
        if isolated and not user:
            env.fault(ISOLATION, "no use without a workload user: set BL_SANDBOX_USER or --user")
        kubernetes = KubernetesSettings.read(env)
        if isolated and kubernetes.grpc_port:
            env.fault(GRPC_PORT, f"no use with {ISOLATION}: who connects there is not told apart")
        sandbox = "" if host or rights.token else sandbox_sign(root, env, os.getpid())
        host = host or (EVERYWHERE if rights.token or sandbox else LOCALHOST)
        e2b = E2bSettings.read(env, e2b_port)
        listening = env.each("SANDKEEPER_CODE_PORTS", _code_port)
        return cls(
            host=host,
            port=port,
            sandbox=sandbox,
            command=command,
            user=user,
            isolated=isolated,
            state_dir=state_dir,
            workdir=os.path.abspath(env.folder("WORKDIR") or os.getcwd()),
            processing_time=env.flag("ENABLE_PROCESSING_TIME"),
            scale_file=Path(env.get("BLAXEL_SCALE_FILE", "") or SCALE_FILE),
            keepalive_allowed=not env.flag("BL_DISABLE_KEEPALIVE"),
            body_limit=env.number("SANDKEEPER_MAX_JSON_BODY_BYTES", 16 * MIB),
            bodies_limit=max(MIB, env.number("SANDKEEPER_MAX_BODY_BYTES_TOTAL", 256 * MIB)),
            mcp_wait=env.number("SANDKEEPER_MCP_WAIT_SECONDS", 58) or 58,
            stop_children=env.choice("SANDKEEPER_ON_SHUTDOWN", ("stop", "keep")) == "stop",
            code_listening=listening,
            rights=rights,
            retention=RetentionSettings.read(env),
            log=LogSettings.read(env),
            terminal=TerminalSettings.read(env),
            files=FileSettings.read(env),
            code=CodeSettings.read(env),
            e2b=e2b,
            kubernetes=kubernetes,
            egress=EgressSettings.read(env, state_dir),
            drives=DriveSettings.read(env, state_dir),
            edge=EdgeSettings.read(
                env,
                inside=not is_loopback(host) and bool(platform_sign(env)),
                ours=e2b.own_ports | frozenset(listening),
            ),
            archive=ArchiveSettings.read(env),
            upgrade=UpgradeSettings.read(env),
            otlp=OtlpSettings.read(env),
        )
