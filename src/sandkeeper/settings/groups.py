"""The settings of each area, read from variables into frozen objects."""

import os
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

import msgspec

from sandkeeper.log.formats import FORMATS
from sandkeeper.patterns import pattern
from sandkeeper.settings.environment import IMPORT_URL
from sandkeeper.settings.port_names import E2B_PORT, PortNames
from sandkeeper.settings.variables import Variables

__all__ = [
    "ArchiveSettings",
    "DriveSettings",
    "E2bSettings",
    "EdgeSettings",
    "EgressSettings",
    "FileSettings",
    "LogSettings",
    "RetentionSettings",
    "TerminalSettings",
    "UpgradeSettings",
    "origin",
]

_ORIGIN = pattern(r"([a-z][a-z0-9+.-]*)://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_HOST_NAME = pattern(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")

PORT_HOSTS = "SANDKEEPER_PORT_HOSTS"
KIB = 1024
MIB = 1024 * KIB


def _total_memory() -> int:
    """Return MemTotal in bytes (proc_meminfo(5)), or 0 when it cannot be read."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemTotal:"):
                    return int(line.split()[1]) * KIB
    except (OSError, ValueError, IndexError):
        return 0
    return 0


class RetentionSettings(msgspec.Struct, frozen=True):
    """How much output and how many finished runs are kept; sizes in bytes, ages in seconds.

    `run_bytes` bounds one journal (0: only the total does), `total_bytes` all of them (0: no
    bound). The reference keeps three files for a process, each up to its file limit; one journal
    takes their place, so it may hold as much as the three together.
    """

    run_bytes: int = 96 * MIB
    total_bytes: int = 96 * MIB
    tail_bytes: int = 64 * KIB
    logs_response_bytes: int = 4 * MIB
    finished_count: int = 1000
    finished_age: float = 7 * 86400.0

    @classmethod
    def read(cls, env: Variables) -> "RetentionSettings":
        """Read the `SANDBOX_*` limits of the contract and our own three."""
        percent = env.number("SANDBOX_MAX_LOG_PERCENT", 10, 1, 100)
        default_total = _total_memory() * percent // 100 or 96 * MIB
        return cls(
            run_bytes=3 * env.number("SANDBOX_MAX_LOG_FILE_BYTES", 32 * MIB),
            total_bytes=env.number("SANDBOX_MAX_LOG_BYTES_TOTAL", default_total),
            tail_bytes=env.number("SANDBOX_MAX_IN_MEMORY_LOG_BYTES", 64 * KIB),
            logs_response_bytes=env.number("SANDBOX_MAX_LOGS_RESPONSE_BYTES", 4 * MIB),
            finished_count=env.number("SANDKEEPER_KEEP_FINISHED", 1000),
            finished_age=float(env.number("SANDKEEPER_KEEP_FINISHED_SECONDS", 7 * 86400)),
        )


class LogSettings(msgspec.Struct, frozen=True):
    """Where the server's own log lines go, which are written, and how.

    An empty `format` is text on a terminal and JSON elsewhere (`log.formats`). What processes write
    may be exported (`process_exported`) where this log goes nowhere.
    """

    target: str = "stdout"
    format: str = ""
    colours: bool = True
    requests: bool = True
    process_output: bool = True
    process_exported: bool = True

    @classmethod
    def read(cls, env: Variables) -> "LogSettings":
        """`SANDKEEPER_LOG` is `stdout`, `stderr`, `none` or a file's path."""
        told = not env.flag("SANDBOX_DISABLE_PROCESS_LOGGING")
        return cls(
            target=env.get("SANDKEEPER_LOG", "") or "stdout",
            format=env.choice("SANDKEEPER_LOG_FORMAT", FORMATS),
            colours=not env.get("NO_COLOR") and env.get("TERM", "dumb") != "dumb",
            requests=not env.flag("DISABLE_REQUEST_LOGGING"),
            process_output=told and env.get("SANDKEEPER_LOG", "") != "none",
            process_exported=told,
        )


class TerminalSettings(msgspec.Struct, frozen=True):
    """Limits of terminals: times in seconds, sizes in bytes; `idle` 0 closes none.

    `origins` are pages of other hosts that may connect (`*`: all). `kept` ended sessions stay to be
    looked at.
    """

    enabled: bool = True
    idle: float = 600.0
    grace: float = 2.0
    sessions: int = 256
    clients: int = 64
    session_bytes: int = 16 * MIB
    total_bytes: int = 128 * MIB
    kept: int = 20
    origins: tuple[str, ...] = ()

    @classmethod
    def read(cls, env: Variables) -> "TerminalSettings":
        """Read `DISABLE_TERMINAL` of the contract and our own `SANDKEEPER_TERMINAL_*`."""
        own = "SANDKEEPER_TERMINAL_"
        return cls(
            enabled=not env.flag("DISABLE_TERMINAL"),
            idle=float(env.number(own + "IDLE_SECONDS", 600)),
            grace=env.number(own + "GRACE_MS", 2000) / 1000,
            sessions=env.number(own + "SESSIONS", 256),
            clients=env.number(own + "CLIENTS", 64),
            session_bytes=max(MIB, env.number(own + "BYTES", 16 * MIB)),
            total_bytes=max(MIB, env.number(own + "BYTES_TOTAL", 128 * MIB)),
            kept=env.number(own + "KEEP_ENDED", 20),
            origins=env.each(own + "ORIGINS", lambda one: origin(one, own + "ORIGINS")),
        )


class E2bSettings(msgspec.Struct, frozen=True):
    """Whether E2B's clients are answered, and on which port besides (0: on none)."""

    enabled: bool = True
    port: int = 0

    @classmethod
    def read(cls, env: Variables, port: int = 0) -> "E2bSettings":
        """Read `SANDKEEPER_E2B` (`off` switches it off) and `SANDKEEPER_E2B_PORT`."""
        off = ("off", "0", "false", "no")
        word = env.choice("SANDKEEPER_E2B", ("on", "1", "true", "yes", *off), "on")
        listening = env.number("SANDKEEPER_E2B_PORT", 0, 0, 65535)
        return cls(enabled=word not in off, port=port or listening)

    @property
    def own_ports(self) -> frozenset[int]:
        """The ports that stand for this server in the host names that clients use."""
        return frozenset({E2B_PORT} if self.enabled else ())


class FileSettings(msgspec.Struct, frozen=True):
    """Limits on files: what one JSON reply or body may carry, where uploads in parts are kept.

    `read_limit` and `write_limit` are in bytes; downloads and form uploads have no limit.
    `upload_seconds` is how long an upload in parts may rest before its parts are removed.
    """

    read_limit: int = 32 * MIB
    write_limit: int = 16 * MIB
    upload_root: Path = Path("/tmp/multipart-uploads")
    upload_seconds: float = 86400.0

    @classmethod
    def read(cls, env: Variables) -> "FileSettings":
        """Read the limits and TMPDIR."""
        temporary = env.get("TMPDIR", "") or "/tmp"
        return cls(
            read_limit=env.number("SANDKEEPER_MAX_JSON_READ_BYTES", 32 * MIB),
            write_limit=env.number("SANDKEEPER_MAX_JSON_WRITE_BYTES", 16 * MIB),
            upload_root=Path(os.path.abspath(temporary)) / "multipart-uploads",
            upload_seconds=float(env.number("SANDKEEPER_UPLOAD_SECONDS", 86400)),
        )


class EgressSettings(msgspec.Struct, frozen=True):
    """Where the loopback proxy listens and keeps its state, and where merged certificates go."""

    port: int = 49152
    state_file: Path = Path("/var/lib/sandkeeper/egress.json")
    merged_ca: Path = Path("/etc/ssl/certs/sandbox-ca-bundle.crt")

    @classmethod
    def read(cls, env: Variables, state_dir: Path) -> "EgressSettings":
        """Read the `SANDBOX_*` variables of the contract."""
        state = env.get("SANDBOX_PROXY_STATE_FILE", "")
        merged = env.get("SANDBOX_MERGED_CA_PATH", "")
        return cls(
            port=env.number("SANDBOX_LOCAL_PROXY_PORT", 49152, 1, 65535),
            state_file=Path(state) if state else state_dir / "egress.json",
            merged_ca=Path(merged) if merged else Path("/etc/ssl/certs/sandbox-ca-bundle.crt"),
        )


class EdgeSettings(msgspec.Struct, frozen=True):
    """Whom the edge believes.

    Pages of `origins` (`*`: all) may use the API beside its own. `hosts` are names by which
    requests may call this server (`*`: any, `*.example.com`: what is below). Identity headers count
    when they come from one of `gateways` (empty: from anyone), forwarded ones only from these.
    Within each `body_seconds` a body must bring a KiB (0: it may take any time). All answers that
    wait to be sent may take `answers_limit` bytes together. `port_names` lead to ports.
    """

    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    gateways: tuple[IPv4Network | IPv6Network, ...] = ()
    body_seconds: float = 30.0
    answers_limit: int = 256 * MIB
    port_names: PortNames = msgspec.field(default_factory=lambda: PortNames.read([], PORT_HOSTS))

    @classmethod
    def read(
        cls, env: Variables, *, inside: bool = False, ours: frozenset[int] = frozenset()
    ) -> "EdgeSettings":
        """Read the three lists, by commas or spaces.

        `inside`: the contract's platform runs us. Its gateway passes on the names by which clients
        call it, so any is answered, as with all origins. `ours`: see `PortNames`.
        """
        name = "SANDKEEPER_CORS_ORIGINS"
        origins = env.each(name, lambda one: origin(one, name))
        hosts = env.each("SANDKEEPER_HOSTS", _host_name)
        return cls(
            origins=origins,
            hosts=hosts or (("*",) if inside or "*" in origins else ()),
            gateways=env.each("SANDKEEPER_TRUSTED_GATEWAYS", _network),
            body_seconds=float(env.number("SANDKEEPER_BODY_SECONDS", 30)),
            answers_limit=max(16 * MIB, env.number("SANDKEEPER_MAX_ANSWER_BYTES_TOTAL", 256 * MIB)),
            port_names=env.sound(
                lambda: PortNames.read(env.words(PORT_HOSTS), PORT_HOSTS, ours),
                PortNames((), PORT_HOSTS),
            ),
        )


def origin(text: str, setting: str) -> str:
    """Return an origin as browsers write it (RFC 6454, section 6.1), or `*`.

    Raises ValueError, which names the setting, for anything else; `null` is no page's alone.
    """
    if text == "*":
        return text
    found = _ORIGIN.fullmatch(text.lower().rstrip("/"))
    if found is None:
        raise ValueError(f"{setting}: {text!r} is no origin, which is like https://a.example")
    scheme, host, port = found.groups()
    usual = {"http": ":80", "https": ":443"}.get(scheme)
    return f"{scheme}://{host}{'' if port in (None, usual) else port}"


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text, strict=False)
    except ValueError as error:
        raise ValueError(f"SANDKEEPER_TRUSTED_GATEWAYS: {error}") from error


def _host_name(text: str) -> str:
    name = text.lower().removesuffix(".")
    if name != "*" and not _HOST_NAME.fullmatch(name):
        raise ValueError(f"SANDKEEPER_HOSTS: {text!r} is no host name")
    return name


DRIVE_DRIVERS = ("blfs", "weed", "rclone", "bind")
BLFS_FLAGS = (
    "BLFS_DISABLE_WRITEBACK_CACHE",
    "BLFS_CROSS_MOUNT_CACHE_COHERENCE",
    "BLFS_READ_DIRECT_IO",
    "BLFS_EVICT_PAGE_CACHE_ON_CLOSE",
)


class DriveSettings(msgspec.Struct, frozen=True):
    """Where drives keep their records and logs, and where the bind driver keeps drives.

    `probe_seconds` lie between two looks at whether a mount still answers.
    """

    folder: Path = Path("/var/lib/sandkeeper/drives")
    root: Path = Path("/var/lib/sandkeeper/drive-data")
    blfs_binary: str = "/usr/local/bin/blfs"
    probe_seconds: float = 10.0

    @classmethod
    def read(cls, env: Variables, state_dir: Path) -> "DriveSettings":
        """Read the operator's choices; the drivers' own variables are read at each mount."""
        env.choice("SANDKEEPER_DRIVE_DRIVER", DRIVE_DRIVERS)
        for flag in BLFS_FLAGS:
            env.flag(flag)
        root = env.get("SANDKEEPER_DRIVE_ROOT", "")
        return cls(
            folder=state_dir / "drives",
            root=Path(root) if root else state_dir / "drive-data",
            blfs_binary=env.get("SANDKEEPER_BLFS_BINARY", "") or "/usr/local/bin/blfs",
            probe_seconds=env.number("SANDKEEPER_DRIVE_PROBE_MS", 10_000) / 1000 or 10.0,
        )


class ArchiveSettings(msgspec.Struct, frozen=True):
    """Which directory is archived and what it is compared with; `import_url` is a secret.

    `baseline` is empty, `record` (one is recorded at the first start) or `required`; `image` a
    directory or a device with the pristine files.
    """

    root: str = "/"
    image: str = ""
    baseline: str = ""
    retries: int = 7
    import_url: str = ""

    __repr__ = object.__repr__  # no secret reaches a log by way of a failure

    @classmethod
    def read(cls, env: Variables) -> "ArchiveSettings":
        """Read `BL_ARCHIVE_IMPORT_URL` of the contract and our own `SANDKEEPER_ARCHIVE_*`."""
        own = "SANDKEEPER_ARCHIVE_"
        image = env.get(own + "IMAGE", "")
        if image and not os.path.exists(image):
            env.fault(own + "IMAGE", "no folder and no device")
        return cls(
            root=os.path.realpath(env.folder(own + "ROOT") or "/"),
            image=image,
            baseline=env.choice(own + "BASELINE", ("record", "required")),
            retries=env.number(own + "RETRIES", 7),
            import_url=env.get(IMPORT_URL, "").strip(),
        )


class UpgradeSettings(msgspec.Struct, frozen=True):
    """What upgrades may come from (`upgrade.source`), and how long each part may take.

    `seconds` bounds the trial and the first answer after the change, `drain` how long requests that
    are being answered are waited for. `count` is how many upgrades led to this server.
    """

    allow: tuple[str, ...] = ()
    downgrade: bool = False
    development: bool = False
    seconds: float = 30.0
    drain: float = 2.0
    count: int = 0

    @classmethod
    def read(cls, env: Variables) -> "UpgradeSettings":
        """Read our own `SANDKEEPER_UPGRADE_*` and the contract's count and development mode."""
        own = "SANDKEEPER_UPGRADE_"
        development = env.get("SANDBOX_DEV_MODE", "").strip().lower()
        return cls(
            allow=tuple(filter(None, map(str.strip, env.get(own + "ALLOW", "").split(",")))),
            downgrade=env.flag(own + "DOWNGRADE"),
            development=development not in {"", "0", "false"} or bool(env.get("AIR_TMP_DIR")),
            seconds=float(env.number(own + "SECONDS", 30) or 30),
            drain=env.number(own + "DRAIN_MS", 2000) / 1000,
            count=env.number("SANDBOX_UPGRADE_COUNT", 0),
        )
