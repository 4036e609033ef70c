"""The settings of `sandkeeper fleet` (docs/fleet.md), a program beside the server."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec.structs import replace

from sandkeeper.settings.catalogue import CATALOGUE as SERVERS
from sandkeeper.settings.groups import EdgeSettings, LogSettings
from sandkeeper.settings.otlp import OtlpSettings
from sandkeeper.settings.port_names import PortNames
from sandkeeper.settings.rights import TOKEN_VARIABLES, RightsSettings, told_token
from sandkeeper.settings.variables import BadSettings, Kind, Variables

__all__ = ["CATALOGUE", "SECRETS", "FleetSettings"]

OWN = "SANDKEEPER_FLEET_"
SECRET = OWN + "SECRET"
SECRETS = (*TOKEN_VARIABLES, SECRET)
"""Variables for which files may stand."""

IN_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

CATALOGUE: dict[str, dict[str, str]] = {
    "the fleet": {
        OWN + "NAMESPACE": "where claims are made (that of the Pod, else default)",
        OWN + "KEYS_NAMESPACE": "where the Secrets of API keys are (the same)",
        OWN + "DOMAIN": "what the names of sandboxes end with: 49983-ID.DOMAIN",
        OWN + "TEMPLATE": "the warm pool of a template that nobody has named (base)",
        OWN + "POD_PORT": "port of the server in each sandbox",
        OWN + "START_SECONDS": "how long a creation waits for its sandbox",
        OWN + "KUBECONFIG": "kubeconfig of the cluster (in a Pod: its service account)",
        SECRET: "what the tokens of sandboxes are made of, which no sandbox knows",
        SECRET + "_FILE": "file to read it from",
        "SANDKEEPER_TOKEN": "token of the servers in the sandboxes",
        "SANDKEEPER_TOKEN_FILE": "file to read it from",
    },
    "the server": {
        "SANDKEEPER_HOST": "address to listen on (0.0.0.0)",
        "SANDKEEPER_LOG": "stdout, stderr, none, or a file",
        "SANDKEEPER_LOG_FORMAT": "how lines look; text on a terminal and JSON elsewhere",
        "DISABLE_REQUEST_LOGGING": "true: no access lines",
        "SANDKEEPER_CORS_ORIGINS": "origins whose pages may ask and read answers; *: all",
        "SANDKEEPER_TRUSTED_GATEWAYS": "networks of gateways whose X-Forwarded-* are believed",
    },
    "export by OTLP": SERVERS["export by OTLP"],
}
"""What every variable means, in a line, for `sandkeeper fleet --help`."""


class FleetSettings(msgspec.Struct, frozen=True):
    """What was decided at the start; `start_seconds` in seconds.

    `names` are the host names that lead to sandboxes. Of `rights` the token is that of the servers
    in the sandboxes, of `secret` those of clients are made; empty, it is the other. Empty
    `kubeconfig`: the Pod's service account, or the usual file. `doubts` are lines about variables
    that are not obeyed, or missed.
    """

    host: str
    namespace: str
    keys_namespace: str
    kubeconfig: str
    domain: str
    template: str
    pod_port: int
    start_seconds: int
    names: PortNames
    rights: RightsSettings
    edge: EdgeSettings
    log: LogSettings
    otlp: OtlpSettings
    secret: str = ""
    doubts: tuple[str, ...] = ()

    __repr__ = object.__repr__  # no secret reaches a log by way of a failure

    @classmethod
    def read(cls, env: Variables, *, host: str = "") -> "FleetSettings":
        """Read the variables; raises BadSettings, with a line for each that makes no sense."""
        made = cls._made(env, host)
        if env.faults:
            raise BadSettings(env.faults)
        known = {name for settings in CATALOGUE.values() for name in settings}
        strange = [name for name in env if name.startswith(OWN) and name not in known]
        doubts = [*env.doubts, *(f"{name} is no setting" for name in sorted(strange))]
        if made.rights.token and made.secret in {"", made.rights.token}:
            doubts.append(
                f"{SECRET} is not set, or the token: who reads that in a sandbox can open all"
            )
        return replace(made, doubts=tuple(doubts))

    @classmethod
    def kinds(cls) -> Mapping[str, Kind]:
        """Return how every variable is read, by those who read it."""
        variables = Variables({})
        cls._made(variables, "")
        return variables.kinds

    @classmethod
    def _made(cls, env: Variables, host: str) -> "FleetSettings":
        namespace = env.text(OWN + "NAMESPACE") or _pods_namespace() or "default"
        domain = env.text(OWN + "DOMAIN").lower().strip(".")
        patterns = ["{port}-{id}." + domain] if domain else []
        nobody = PortNames((), OWN + "DOMAIN")
        return cls(
            host=host or env.text("SANDKEEPER_HOST") or "0.0.0.0",
            namespace=namespace,
            keys_namespace=env.text(OWN + "KEYS_NAMESPACE") or namespace,
            kubeconfig=env.text(OWN + "KUBECONFIG"),
            domain=domain,
            template=env.text(OWN + "TEMPLATE") or "base",
            pod_port=env.number(OWN + "POD_PORT", 8080, 1, 65535),
            start_seconds=env.number(OWN + "START_SECONDS", 60, 1, 3600),
            names=env.sound(lambda: PortNames(patterns, OWN + "DOMAIN"), nobody),
            rights=RightsSettings.read(env),
            edge=EdgeSettings.read(env),
            log=LogSettings.read(env),
            otlp=OtlpSettings.read(env),
            secret=env.sound(lambda: told_token(env, SECRET), ""),
        )


def _pods_namespace() -> str:
    """Return the namespace that Kubernetes tells a Pod; empty elsewhere."""
    try:
        return IN_POD.read_text().strip()
    except OSError:
        return ""
