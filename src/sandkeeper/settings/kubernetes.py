"""The settings of agent-sandbox's wires (docs/kubernetes.md)."""

import os

import msgspec

from sandkeeper.settings.variables import Variables

__all__ = ["GRPC_PORT", "KubernetesSettings"]

GRPC_PORT = "SANDKEEPER_GRPC_PORT"


class KubernetesSettings(msgspec.Struct, frozen=True):
    """Where the clients of `k8s-agent-sandbox` are answered: ports, 0 for none.

    Paths on these wires stand below `root`; empty for the working directory. `name` is that of the
    Sandbox this server is in: what is meant for another is refused (`api.port.meant`).
    """

    runtime_port: int = 0
    grpc_port: int = 0
    root: str = ""
    name: str = ""

    @classmethod
    def read(cls, env: Variables) -> "KubernetesSettings":
        """Read our own three, and the folder by the name that agent-sandbox has for it."""
        base = env.text("SANDBOX_BASE_DIR")
        return cls(
            runtime_port=env.number("SANDKEEPER_RUNTIME_PORT", 0, 0, 65535),
            grpc_port=env.number(GRPC_PORT, 0, 0, 65535),
            root=os.path.abspath(base) if base else "",
            name=env.text("SANDKEEPER_SANDBOX_NAME"),
        )
