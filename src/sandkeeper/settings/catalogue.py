"""What every variable means, in a line, for `sandkeeper --help`; docs/configuration.md says more.

Ours are options as well (`settings.options`). What kind of value a variable takes and what holds
without it is not said here: the readers of `Settings` know.
"""

__all__ = ["BESIDE", "CATALOGUE", "OPERATORS_FILES", "SURROUNDINGS"]

CATALOGUE: dict[str, dict[str, str]] = {
    "who may": {
        "SANDKEEPER_TOKEN": "bearer token for everything but /health and /ready",
        "SANDKEEPER_TOKEN_FILE": "file to read the token from, as secrets are given to containers",
        "SANDKEEPER_ADMIN_TOKEN": "the operator's token: what is administrative needs it",
        "SANDKEEPER_ADMIN_TOKEN_FILE": "file to read the operator's token from",
        "SANDKEEPER_WORKLOAD_MAY": "administrative areas that need no operator, or all",
        "SANDKEEPER_USERS": "users that requests may act as besides the workload's own",
        "SANDKEEPER_HOSTS": "further names under which requests without a token are answered",
        "SANDKEEPER_CORS_ORIGINS": "origins whose pages may ask and read answers; *: all",
        "SANDKEEPER_TRUSTED_GATEWAYS": "networks of gateways whose X-Forwarded-* are believed",
        "BL_SANDBOX_USER": "whom processes and files belong to, with BL_SANDBOX_USER_ENABLED",
        "BL_SANDBOX_USER_ENABLED": "true: BL_SANDBOX_USER counts",
        "BL_SANDBOX_API_ISOLATION": "true: processes of the workload's user cannot use the API",
    },
    "where": {
        "SANDKEEPER_HOST": "address to listen on",
        "SANDKEEPER_STATE_DIR": "folder of runs and journals (root: /var/lib/sandkeeper)",
        "SANDKEEPER_PORT_HOSTS": "patterns of host names that lead to ports; none: there are none",
        "SANDKEEPER_E2B": "off: E2B's clients are not answered",
        "SANDKEEPER_E2B_PORT": "port to listen on besides, for E2B's clients",
        "WORKDIR": "where relative paths of files begin (the current folder)",
        "SHELL": "how commands are run (sh), with SHELL_ARGS (-c)",
        "SHELL_ARGS": "arguments of SHELL before the command",
        "BL_ENV_VAR_PATH": "file of variables, set where they are not yet",
        "BL_METADATA_PATH": "document of variables that POST /environment/reload applies",
        "BLAXEL_SCALE_FILE": "file that keeps the machine awake for keepAlive",
        "BL_DISABLE_KEEPALIVE": "true: keepAlive is refused",
        "SANDKEEPER_GRPC_PORT": "port of sandboxd's gRPC, for agent-sandbox's clients",
        "SANDKEEPER_RUNTIME_PORT": "port of agent-sandbox's runtime routes",
        "SANDKEEPER_SANDBOX_NAME": "name of the Sandbox; requests that mean another are refused",
        "SANDBOX_BASE_DIR": "where relative paths of agent-sandbox's clients begin",
    },
    "the log": {
        "SANDKEEPER_LOG": "stdout, stderr, none, or a file",
        "SANDKEEPER_LOG_FORMAT": "how lines look; text on a terminal and JSON elsewhere",
        "DISABLE_REQUEST_LOGGING": "true: no access lines",
        "SANDBOX_DISABLE_PROCESS_LOGGING": "true: no lines of process output",
        "ENABLE_PROCESSING_TIME": "true: a Server-Timing header on every answer",
    },
    "export by OTLP": {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "collector of logs, traces, metrics; needs the extra otlp",
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "that of logs, as it is: no path is added",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "that of traces",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "that of metrics",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf, the only one that is spoken",
        "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "the same for logs",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "the same for traces",
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "the same for metrics",
        "OTEL_LOGS_EXPORTER": "none: logs are not exported (otlp)",
        "OTEL_TRACES_EXPORTER": "none: traces are not exported (otlp)",
        "OTEL_METRICS_EXPORTER": "none: metrics are not exported (otlp)",
        "OTEL_METRIC_EXPORT_INTERVAL": "milliseconds between two readings of metrics (60000)",
        "OTEL_TRACES_SAMPLER": "which traces are recorded (parentbased_always_on)",
        "OTEL_TRACES_SAMPLER_ARG": "share of them, for the samplers by ratio (1)",
        "OTEL_SDK_DISABLED": "true: nothing is exported",
    },
    "output that is kept": {
        "SANDBOX_MAX_LOG_FILE_BYTES": "a third of what one journal keeps; 0: no bound",
        "SANDBOX_MAX_LOG_BYTES_TOTAL": "what all journals keep together; 0: no bound",
        "SANDBOX_MAX_LOG_PERCENT": "that as a share of memory",
        "SANDBOX_MAX_IN_MEMORY_LOG_BYTES": "texts in records, for each stream",
        "SANDBOX_MAX_LOGS_RESPONSE_BYTES": "/logs and waited records, for each stream",
        "SANDKEEPER_KEEP_FINISHED": "finished processes that are remembered",
        "SANDKEEPER_KEEP_FINISHED_SECONDS": "and for how long",
        "SANDKEEPER_ON_SHUTDOWN": "stop: processes end with the server; keep: they go on",
    },
    "what requests may hold": {
        "SANDKEEPER_MAX_JSON_BODY_BYTES": "JSON bodies",
        "SANDKEEPER_MAX_BODY_BYTES_TOTAL": "bodies in memory, of all requests together",
        "SANDKEEPER_MAX_ANSWER_BYTES_TOTAL": "answers that wait for their clients, together",
        "SANDKEEPER_BODY_SECONDS": "in each such period a body must bring a KiB; 0: any time",
        "SANDKEEPER_MAX_JSON_READ_BYTES": "a file that is read as JSON",
        "SANDKEEPER_MAX_JSON_WRITE_BYTES": "a file that is written as JSON",
        "SANDKEEPER_UPLOAD_SECONDS": "how long an upload in parts may rest",
        "SANDKEEPER_MCP_WAIT_SECONDS": "how long a tool call of MCP waits",
        "TMPDIR": "where uploads in parts lie, in multipart-uploads (/tmp)",
    },
    "terminals": {
        "DISABLE_TERMINAL": "true: there are none",
        "SANDKEEPER_TERMINAL_IDLE_SECONDS": "an unused session is closed after; 0: never",
        "SANDKEEPER_TERMINAL_GRACE_MS": "between SIGHUP and SIGKILL",
        "SANDKEEPER_TERMINAL_SESSIONS": "sessions that live",
        "SANDKEEPER_TERMINAL_CLIENTS": "clients of one session",
        "SANDKEEPER_TERMINAL_BYTES": "output kept of one session",
        "SANDKEEPER_TERMINAL_BYTES_TOTAL": "output kept of all sessions",
        "SANDKEEPER_TERMINAL_KEEP_ENDED": "ended sessions that can be looked at",
        "SANDKEEPER_TERMINAL_ORIGINS": "origins of other pages that may connect; *: all",
    },
    "code": {
        "SANDKEEPER_CODE_PORTS": "ports to listen on besides, for clients of code interpreters",
        "SANDKEEPER_CODE_WARM": "a language (1: Python) of which one context is kept ready",
        "SANDKEEPER_CODE_IDLE_SECONDS": "an unused context is ended after; 0: never",
        "SANDKEEPER_CODE_INTERRUPT_MS": "an interrupt that is not heard becomes a restart",
        "SANDKEEPER_CODE_CONTEXTS": "contexts at once",
        "SANDKEEPER_CODE_KEEP": "executions that are over and stay",
        "SANDKEEPER_CODE_BYTES": "output kept of one execution",
        "SANDKEEPER_CODE_BYTES_TOTAL": "output kept of all executions",
    },
    "upgrades": {
        "SANDKEEPER_UPGRADE_ALLOW": "what they may come from; without it none is permitted",
        "SANDKEEPER_UPGRADE_DOWNGRADE": "true: older versions, too",
        "SANDKEEPER_UPGRADE_SECONDS": "for the trial, and until the new version must answer",
        "SANDKEEPER_UPGRADE_DRAIN_MS": "so long requests that are being answered are waited for",
        "SANDBOX_UPGRADE_COUNT": "where upgradeCount begins",
        "SANDBOX_DEV_MODE": "set: upgrades are skipped (AIR_TMP_DIR as well)",
    },
    "archives": {
        "SANDKEEPER_ARCHIVE_ROOT": "the folder that is archived and restored (/)",
        "SANDKEEPER_ARCHIVE_IMAGE": "folder or block device with the pristine files",
        "SANDKEEPER_ARCHIVE_BASELINE": "what to do without a baseline at the first start",
        "SANDKEEPER_ARCHIVE_RETRIES": "further attempts of a transfer",
        "BL_ARCHIVE_IMPORT_URL": "restore from there at the first start",
    },
    "drives, ways out, code": {
        "SANDKEEPER_DRIVE_DRIVER": "what mounts drives (blfs)",
        "SANDKEEPER_DRIVE_ROOT": "folder of the driver bind (drive-data in the state folder)",
        "SANDKEEPER_DRIVE_PROBE_MS": "between two looks at whether a mount answers",
        "SANDKEEPER_BLFS_BINARY": "program of the driver blfs (/usr/local/bin/blfs)",
        "SANDKEEPER_WEED_FILER": "host:port of the driver weed",
        "SANDKEEPER_RCLONE_REMOTE": "remote of the driver rclone",
        "SANDKEEPER_RCLONE_ARGS": "further arguments of rclone",
        "BL_DRIVE_FILER": "host of the driver blfs's filer",
        "BL_WORKSPACE_ID": "the workspace of the driver blfs",
        "BL_NETWORKING_CONFIG": "the tunnel's configuration (docs/tunnel.md)",
        "SANDBOX_LOCAL_PROXY_PORT": "port of the outgoing proxy on loopback",
        "SANDBOX_PROXY_STATE_FILE": "where it keeps its state (egress.json in the state folder)",
        "SANDBOX_EXTRA_CA_CERTS": "certificates that are merged with the system's",
        "SANDBOX_MERGED_CA_PATH": "and where to",
        "SANDKEEPER_LOCAL_CODEGEN": "true: code is edited without a model",
        "SANDKEEPER_CODEGEN_TIMEOUT": "how long a model may take, in seconds",
        "SANDKEEPER_MORPH_BASE_URL": "another address of Morph",
        "MORPH_API_KEY": "key of Morph",
        "RELACE_API_KEY": "key of Relace",
        "RELACE_BASE_URL": "another address of Relace",
    },
}
"""By what they are about; the order is that of the help."""

OPERATORS_FILES = frozenset(
    {"SANDKEEPER_TOKEN", "SANDKEEPER_ADMIN_TOKEN", "SANDKEEPER_FLEET_SECRET"}
)
"""No options: the arguments of a process can be read by everybody. A file is named instead."""

BESIDE = frozenset({"SANDKEEPER_HOST", "SANDKEEPER_E2B_PORT"})
"""The command has options for these of its own."""

SURROUNDINGS = frozenset(
    {"AIR_TMP_DIR", "BL_CLOUD", "HOME", "NO_COLOR", "TERM", "XDG_STATE_HOME"}
    | {"TOOLBOX_PATH", "container", "DISTROBOX_ENTER_PATH", "FLATPAK_ID", "WSL_DISTRO_NAME"}
    | {"BLFS_DISABLE_WRITEBACK_CACHE", "BLFS_CROSS_MOUNT_CACHE_COHERENCE"}
    | {"BLFS_READ_DIRECT_IO", "BLFS_EVICT_PAGE_CACHE_ON_CLOSE"}
)
"""Read, but no settings: what the surroundings say of themselves, and flags that a driver gets."""
