"""A real node: Debian's containerd and runc, a kubelet, Pods on a bridge of their own.

A kubelet changes the machine it runs on: three settings of the kernel (one would turn a fault of a
driver into a dead machine), forwarding between networks, a bridge, control groups, mounts, network
namespaces, folders in /var. What there was before stands in the cluster's `state.json` before
anything is changed, and `give_back` makes it so again, whatever was reached.

Its images are empty: they have only places to mount at, and a Pod's template mounts the machine's
/usr, the interpreter and this checkout there, read-only. So nothing is built, and what runs is the
working copy.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from cluster import CACHE, ROOT, Cluster
from daemons import Failed, wait
from images import archive_of, layer_of

BRIDGE = "fleet0"
NETWORK, GATEWAY = "10.25.0.0/16", "10.25.0.1"
GROUP = "sandkeeper-fleet"
NAME = "real"
"""The node's name."""

SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
)
"""What kubelet (`setupKernelTunables`) and the bridge plugin set."""

FOLDERS = (
    "/var/log/containers",
    "/var/log/pods",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/run/containerd",
    "/opt/containerd",
    "/opt/cni",
    "/var/run/netns",
)
"""What they make although they are given other places."""

IMAGES = {
    "registry.example.com/sandkeeper:latest": [f"{ROOT}/.venv/bin/sandkeeper"],
    "fleet/python-runtime:1": [f"{CACHE}/python-runtime/venv/bin/uvicorn"],
}
"""Names of images, and what each starts. The first is that of deploy/kubernetes."""

MOUNTS = (
    ("usr", "/usr"),
    ("ssl", "/etc/ssl"),
    ("libraries", "/etc/ld.so.cache"),
    ("alternatives", "/etc/alternatives"),
    ("interpreter", str(Path(sys.base_prefix).resolve())),
    ("checkout", str(ROOT)),
    ("cache", str(CACHE)),
)


def volumes() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what a Pod's template has besides, on an empty image: volumes, and their mounts."""
    chosen = {path: name for name, path in MOUNTS if Path(path).exists()}
    kinds = {path: "File" if Path(path).is_file() else "Directory" for path in chosen}
    return (
        [
            {"name": name, "hostPath": {"path": path, "type": kinds[path]}}
            for path, name in chosen.items()
        ],
        [{"name": name, "mountPath": path, "readOnly": True} for path, name in chosen.items()],
    )


def up(cluster: Cluster) -> None:
    """Make this machine a node of the cluster; returns when it is ready.

    :raises Failed: not root, a bridge of that name is there already, or it did not get ready.
    """
    if os.geteuid() != 0:
        raise Failed("a node needs root")
    if Path("/sys/class/net", BRIDGE).exists():
        raise Failed(f"{BRIDGE} is there already: another node runs here")
    _note(cluster)
    words = [["add", BRIDGE, "type", "bridge"], ["set", BRIDGE, "up"]]
    for one in words:
        subprocess.run(["ip", "link", *one], check=True)
    subprocess.run(["ip", "address", "add", f"{GATEWAY}/16", "dev", BRIDGE], check=True)
    for controller in _controllers():
        (controller / GROUP).mkdir(exist_ok=True)
    _copy_processors()
    _containerd(cluster)
    _load_images(cluster)
    _kubelet(cluster)
    wait(lambda: _is_ready(cluster), f"the node (its log: {cluster.folder}/kubelet.log)")
    # Not at the end: for as long as it runs a fault would end the machine.
    _put_settings_back(cluster.known["machine"])


def give_back(cluster: Cluster) -> None:
    """End the node and its Pods and make the machine what it was before."""
    before = cluster.known["machine"]
    cluster.stop("kubelet")
    for pid in _shims(cluster):
        for child in _children(pid):
            _kill(child)
        _kill(pid)
    cluster.stop("containerd")
    for point in _mounted(f"{cluster.folder}/") + sorted(
        set(_mounted("/run/containerd/")) - set(before["mounts"]), reverse=True
    ):
        # One that is shared is gone with its twin.
        subprocess.run(["umount", "--lazy", point], check=False, stderr=subprocess.DEVNULL)
    for name in sorted(_namespaces() - set(before["namespaces"])):
        subprocess.run(["ip", "netns", "delete", name], check=False)
    if Path("/sys/class/net", BRIDGE).exists():
        subprocess.run(["ip", "link", "delete", BRIDGE], check=False)
    for controller in _controllers():
        _remove_groups(controller / GROUP)
    for folder in set(FOLDERS) - set(before["folders"]):
        shutil.rmtree(folder, ignore_errors=True)
    _put_settings_back(before)


def _note(cluster: Cluster) -> None:
    cluster.known["machine"] = {
        "settings": {
            name: _setting(name).read_text().strip() for name in SETTINGS if _setting(name).exists()
        },
        "folders": [one for one in FOLDERS if Path(one).exists()],
        "namespaces": sorted(_namespaces()),
        "mounts": _mounted("/run/containerd/"),
    }
    cluster.keep()


def _setting(name: str) -> Path:
    return Path("/proc/sys", name)


def _put_settings_back(before: dict[str, Any]) -> None:
    forwarding = not Path("/sys/class/net", BRIDGE).exists()
    for name, value in before["settings"].items():
        # Pods need no way out; yet the plugin counts on what it has set while there is a bridge.
        if _setting(name).read_text().strip() != value and (
            forwarding or not name.startswith("net/")
        ):
            _setting(name).write_text(value)


def _controllers() -> list[Path]:
    """Return where control groups are made, of each hierarchy."""
    base = Path("/sys/fs/cgroup")
    if (base / "cgroup.controllers").exists():
        return [base]
    return [path for path in base.iterdir() if (path / "cgroup.procs").exists()]


def _copy_processors() -> None:
    """A new group of version 1 has no processors of its own, and takes no process before it has."""
    group = Path("/sys/fs/cgroup/cpuset")
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (group / GROUP / name).exists():
            (group / GROUP / name).write_text((group / name).read_text())


def _remove_groups(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        for pid in _pids(Path(folder)):
            _kill(pid)
    for folder, _, _ in os.walk(group, topdown=False):
        wait(lambda folder=folder: not _pids(Path(folder)), f"the end of what is in {folder}", 30)
        Path(folder).rmdir()


def _pids(group: Path) -> list[int]:
    try:
        return [int(one) for one in (group / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _shims(cluster: Cluster) -> list[int]:
    """Return the processes that stand between our containerd and its containers."""
    socket = str(cluster.folder / "containerd.sock").encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"containerd-shim-runc-v2") and socket in words:
            found.append(int(path.parent.name))
    return found


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(one) for one in text.split()]


def _mounted(under: str) -> list[str]:
    """Return what is mounted below a folder, what lies deepest first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted((one for one in points if one.startswith(under)), reverse=True)


def _namespaces() -> set[str]:
    folder = Path("/var/run/netns")
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def _containerd(cluster: Cluster) -> None:
    folder = cluster.folder
    networks = folder / "networks"
    networks.mkdir()
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "ipMasq": False,
        "ipam": {"type": "host-local", "subnet": NETWORK, "dataDir": str(folder / "addresses")},
    }
    plan = {"cniVersion": "0.4.0", "name": "fleet", "plugins": [bridge]}
    (networks / "10-fleet.conflist").write_text(json.dumps(plan))
    (folder / "containerd.toml").write_text(f"""
version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-state"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
                    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "fleet/pause:1"
  # Root may lack the right to make a process less likely to be ended.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{networks}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
""")
    cluster.start("containerd", shutil.which("containerd"), "--config", folder / "containerd.toml")
    wait(lambda: _ctr(cluster, "version").returncode == 0, "containerd")


def _ctr(cluster: Cluster, *words: str) -> "subprocess.CompletedProcess[str]":
    command = ["ctr", "--address", str(cluster.folder / "containerd.sock"), "-n", "k8s.io", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _load_images(cluster: Cluster) -> None:
    pause = cluster.folder / "pause"
    source = "#include <signal.h>\n#include <unistd.h>\n"
    source += "static void end(int n) { (void)n; _exit(0); }\n"
    source += "int main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }\n"
    compiler = ["gcc", "-static", "-Os", "-s", "-x", "c", "-", "-o", str(pause)]
    subprocess.run(compiler, input=source, text=True, check=True)
    made = {"fleet/pause:1": (layer_of({"pause": pause.read_bytes()}), ["/pause"])}
    made.update({name: (layer_of({}), words) for name, words in IMAGES.items()})
    for number, (name, (layer, words)) in enumerate(made.items()):
        path = cluster.folder / f"image-{number}.tar"
        # Names are what CRI makes of short ones.
        full = name if "." in name.partition("/")[0] else f"docker.io/{name}"
        path.write_bytes(archive_of(full, layer, words))
        done = _ctr(cluster, "images", "import", str(path))
        if done.returncode:
            raise Failed(f"{name}: {done.stderr}")


def _kubelet(cluster: Cluster) -> None:
    folder = cluster.folder
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": GATEWAY,
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{GROUP}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{folder}/containerd.sock",
        "enforceNodeAllocatable": ["none"],
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageMinimumGCAge": "24h",
        "localStorageCapacityIsolation": False,
        "makeIPTablesUtilChains": False,
        "maxPods": 110,
        "oomScoreAdj": 0,
        "podLogsDir": str(folder / "pod-logs"),
        "port": 10250,
        "readOnlyPort": 0,
        "resolvConf": "/etc/resolv.conf",
        "volumePluginDir": str(folder / "volume-plugins"),
    }
    (folder / "kubelet.json").write_text(json.dumps(config))
    cluster.start(
        "kubelet",
        CACHE / "bin" / "kubelet",
        f"--config={folder}/kubelet.json",
        f"--kubeconfig={cluster.kubeconfig}",
        f"--root-dir={folder}/kubelet",
        f"--cert-dir={folder}/kubelet-certificates",
        f"--hostname-override={NAME}",
        f"--node-ip={GATEWAY}",
    )


def _is_ready(cluster: Cluster) -> bool:
    cluster.insist("kubelet")
    nodes = cluster.get("nodes")["items"]
    states = [
        one["status"]
        for node in nodes
        if node["metadata"]["name"] == NAME
        for one in node["status"].get("conditions", [])
        if one["type"] == "Ready"
    ]
    return states == ["True"]
