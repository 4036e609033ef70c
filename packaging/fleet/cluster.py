"""A Kubernetes control plane of plain processes on loopback, with agent-sandbox in it.

etcd is Debian's, all else scripts/fleet-build's. All of it lies in the state folder, and goes with
it: database, keys, logs, and what is running (`daemons`).

The API server says who somebody is by a list of tokens, and its certificate is its own authority.
agent-sandbox's resources are taken from its module, without the old version and the webhook that
converts it: a webhook would have to be a Pod.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml
from daemons import Failed, Processes, wait
from tests.harness import free_port

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(
    os.environ.get("SANDKEEPER_FLEET_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sandkeeper-fleet"
)
NODES = 20
"""How many nodes of kwok there are; each takes 110 Pods unless it says otherwise."""


class Cluster(Processes):
    """etcd, an API server and what makes Pods of its objects."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.kubeconfig = folder / "kubeconfig"

    @property
    def url(self) -> str:
        """The API server's address."""
        return f"https://127.0.0.1:{self.known['ports']['api']}"

    @property
    def router(self) -> str:
        """The address of agent-sandbox's router."""
        return f"http://127.0.0.1:{self.known['ports']['router']}"

    def up(self) -> None:
        """Start the control plane and agent-sandbox; returns when they serve.

        :raises Failed: a program is missing, or something did not start.
        """
        for program in ("kube-apiserver", "agent-sandbox-controller", "kube-controller-manager"):
            if not (CACHE / "bin" / program).exists():
                raise Failed(f"{program} is not built yet: scripts/fleet-build")
        names = ("api", "etcd", "peer", "probe", "router", "router_probe", "controller_probe")
        self.known["ports"] = {name: free_port() for name in names}
        self._keys()
        self._etcd()
        self._api_server()
        wait(self.ready, f"the API server (its log: {self.folder}/kube-apiserver.log)")
        self._write_kubeconfig()
        self.kubectl("apply", "--server-side", "-f", "-", text=agent_sandbox_resources())
        # A controller ends at once where it does not find its resources.
        asked = ("wait", "--timeout=60s", "--for=condition=Established", "crd", "--all")
        # kubectl gives up at once over a resource that has no conditions yet.
        wait(lambda: self._kubectl(*asked).returncode == 0, "agent-sandbox's resources")
        self._controllers()
        wait(self._has_account, "the default service account")
        wait(self._has_controller, "agent-sandbox's controller")

    def down(self) -> None:
        """End everything, what was started last first, and forget it."""
        for name in [one for one in reversed(self.known) if "pid" in self.known[one]]:
            # An API server takes its time to tell its clients; nobody is left to be told.
            fast = name in {"kube-apiserver", "etcd"}
            self.stop(name, signal.SIGKILL if fast else signal.SIGTERM)
        self.known.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ready(self) -> bool:
        """Say whether the API server is ready.

        :raises Failed: it has ended.
        """
        self.insist("etcd", "kube-apiserver")
        done = self._kubectl("get", "--raw", "/readyz") if self.kubeconfig.exists() else None
        if done is None:
            certificate = self.folder / "certificates" / "apiserver.crt"
            if not certificate.exists():
                return False
            self._write_kubeconfig()
            return False
        return done.returncode == 0

    def kubectl(self, *words: str, text: str | None = None) -> str:
        """Run kubectl as an administrator; returns what it printed.

        :raises RuntimeError: it failed.
        """
        done = self._kubectl(*words, text=text)
        if done.returncode:
            raise RuntimeError(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *words: str) -> Any:
        """Return objects, as JSON."""
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def _kubectl(self, *words: str, text: str | None = None) -> "subprocess.CompletedProcess[str]":
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig), *words]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)

    def insist(self, *names: str) -> None:
        """Go on only while these run.

        :raises Failed: one has ended; the end of what it said is told.
        """
        for name in names:
            if not self.runs(name):
                tail = (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]
                raise Failed(f"{name} has ended:\n{tail}")

    def _has_controller(self) -> bool:
        self.insist("agent-sandbox-controller")
        return self._answers("controller_probe", "/readyz")

    def _has_account(self) -> bool:
        return self._kubectl("get", "serviceaccount", "default").returncode == 0

    def _answers(self, port: str, path: str) -> bool:
        address = f"http://127.0.0.1:{self.known['ports'][port]}{path}"
        try:
            with urllib.request.urlopen(address, timeout=5) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _keys(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        (self.folder / "token").write_text(secrets.token_hex(16))
        token = (self.folder / "token").read_text()
        (self.folder / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
        key = ["openssl", "genrsa", "-out", str(self.folder / "accounts.key"), "2048"]
        subprocess.run(key, check=True, capture_output=True)

    def _write_kubeconfig(self) -> None:
        # The server's own certificate is followed by the authority that signed it.
        cluster = {
            "server": self.url,
            "certificate-authority": str(self.folder / "certificates" / "apiserver.crt"),
        }
        user = {"token": (self.folder / "token").read_text()}
        context = {"cluster": "fleet", "user": "admin", "namespace": "default"}
        made = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fleet", "cluster": cluster}],
            "users": [{"name": "admin", "user": user}],
            "contexts": [{"name": "fleet", "context": context}],
            "current-context": "fleet",
        }
        self.kubeconfig.write_text(yaml.safe_dump(made))

    def _etcd(self) -> None:
        ports = self.known["ports"]
        client, peer = f"http://127.0.0.1:{ports['etcd']}", f"http://127.0.0.1:{ports['peer']}"
        self.start(
            "etcd",
            shutil.which("etcd") or "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            # Nothing of it is to outlive the machine.
            "--unsafe-no-fsync",
            "--quota-backend-bytes=2147483648",
        )

    def _api_server(self) -> None:
        self.start(
            "kube-apiserver",
            CACHE / "bin" / "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.known['ports']['etcd']}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.known['ports']['api']}",
            "--advertise-address=127.0.0.1",
            # It would write its address into an Endpoints object, which loopback may not be.
            "--endpoint-reconciler-type=none",
            f"--cert-dir={self.folder / 'certificates'}",
            "--service-cluster-ip-range=10.26.0.0/16",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.folder / 'accounts.key'}",
            f"--service-account-signing-key-file={self.folder / 'accounts.key'}",
            "--kubelet-preferred-address-types=InternalIP",
            "--allow-privileged=true",
            "--profiling=false",
            "--max-requests-inflight=2000",
            "--max-mutating-requests-inflight=1000",
        )

    def _controllers(self) -> None:
        here = f"--kubeconfig={self.kubeconfig}"
        ports = self.known["ports"]
        self.start(
            "kube-controller-manager",
            CACHE / "bin" / "kube-controller-manager",
            here,
            "--leader-elect=false",
            "--secure-port=0",
            f"--service-account-private-key-file={self.folder / 'accounts.key'}",
            f"--root-ca-file={self.folder / 'certificates' / 'apiserver.crt'}",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        )
        self.start(
            "agent-sandbox-controller",
            CACHE / "bin" / "agent-sandbox-controller",
            here,
            "--enable-webhook=false",
            "--leader-elect=false",
            "--extensions",
            "--metrics-bind-address=0",
            f"--health-probe-bind-address=127.0.0.1:{ports['controller_probe']}",
        )
        if (CACHE / "bin" / "kube-scheduler").exists():
            self.start(
                "kube-scheduler",
                CACHE / "bin" / "kube-scheduler",
                here,
                "--leader-elect=false",
                "--secure-port=0",
                "--kube-api-qps=200",
                "--kube-api-burst=400",
            )
        if (CACHE / "bin" / "sandbox-router").exists():
            self.start(
                "sandbox-router",
                CACHE / "bin" / "sandbox-router",
                here,
                f"--http-bind-address=127.0.0.1:{ports['router']}",
                # There are no names of Pods here, by which it would find them otherwise.
                "--cache-enabled",
                f"--health-probe-bind-address=127.0.0.1:{ports['router_probe']}",
                "--metrics-bind-address=127.0.0.1:0",
            )


def module_folder(module: str) -> Path:
    """Return where Go keeps a module of packaging/fleet/go.mod."""
    command = ["go", "-C", str(ROOT / "packaging/fleet"), "list", "-m", "-f", "{{.Dir}}", module]
    return Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


def agent_sandbox_resources() -> str:
    """Return agent-sandbox's resource definitions, the newest version of each, without webhooks."""
    folder = module_folder("sigs.k8s.io/agent-sandbox") / "k8s" / "crds"
    made = []
    for path in sorted(folder.glob("*.yaml")):
        one = yaml.load(path.read_text(), yaml.CSafeLoader)
        spec = one["spec"]
        spec["conversion"] = {"strategy": "None"}
        spec["versions"] = [version for version in spec["versions"] if version["storage"]]
        made.append(json.dumps(one))
    return "\n".join(made)


def kwok(cluster: Cluster, nodes: int = NODES) -> None:
    """Give the cluster nodes that do not exist; Pods on them are ready at once."""
    if cluster.runs("kwok"):
        return
    stages = module_folder("sigs.k8s.io/kwok") / "kustomize" / "stage"
    chosen = ("node/fast", "node/heartbeat-with-lease", "pod/fast")
    files = [path for name in chosen for path in sorted((stages / name).glob("*.yaml"))]
    config = cluster.folder / "kwok.yaml"
    kept = [path.read_text() for path in files if path.name != "kustomization.yaml"]
    config.write_text("\n---\n".join(kept))
    cluster.start(
        "kwok",
        CACHE / "bin" / "kwok",
        f"--kubeconfig={cluster.kubeconfig}",
        f"--config={config}",
        "--manage-all-nodes=false",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        # Without leases the nodes are lost after 40 s, and all that runs on them.
        "--node-lease-duration-seconds=40",
        f"--server-address=127.0.0.1:{free_port()}",
    )
    made = "\n".join(json.dumps(_fake_node(number)) for number in range(nodes))
    cluster.kubectl("create", "-f", "-", text=made)
    cluster.kubectl("wait", "--timeout=120s", "--for=condition=Ready", "node", "-l", "type=kwok")


def _fake_node(number: int) -> dict[str, Any]:
    name = f"kwok-{number}"
    room = {"cpu": "256", "memory": "1Ti", "pods": "1000"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {"type": "kwok", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"},
        },
        "spec": {"taints": [{"key": "type", "value": "kwok", "effect": "NoSchedule"}]},
        "status": {"allocatable": room, "capacity": room},
    }
