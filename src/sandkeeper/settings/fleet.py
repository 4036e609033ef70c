"""The settings of `sandkeeper fleet` (docs/fleet.md), a program beside the server."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sandkeeper.settings.groups import EdgeSettings, LogSettings
from sandkeeper.settings.port_names import PortNames
from sandkeeper.settings.rights import RightsSettings
from sandkeeper.settings.variables import BadSettings, Kind, Variables

__all__ = ["CATALOGUE", "FleetSettings"]

OWN = "SANDKEEPER_FLEET_"
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
}
"""What every variable means, in a line, for `sandkeeper fleet --help`."""


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """What was decided at the start; `start_seconds` in seconds.

    `names` are the host names that lead to sandboxes. Of `rights` the token is that of the servers
    in the sandboxes. Empty `kubeconfig`: the Pod's service account, or the usual file. `doubts` are
    lines about variables that are not obeyed.
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
    doubts: tuple[str, ...] = ()

    @classmethod
    def read(cls, env: Variables, *, host: str = "") -> "FleetSettings":
        """Read the variables; raises BadSettings, with a line for each that makes no sense."""
        made = cls._made(env, host)
        if env.faults:
            raise BadSettings(env.faults)
        known = {name for settings in CATALOGUE.values() for name in settings}
        strange = [name for name in env if name.startswith(OWN) and name not in known]
        return replace(made, doubts=tuple(f"{name} is no setting" for name in sorted(strange)))

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
        )


def _pods_namespace() -> str:
    """Return the namespace that Kubernetes tells a Pod; empty elsewhere."""
    try:
        return IN_POD.read_text().strip()
    except OSError:
        return ""
