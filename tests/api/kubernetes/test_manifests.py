"""`deploy/kubernetes/`: what the manifests ask of this server is what it has."""

from pathlib import Path
from typing import Any

import httpx
import yaml
from tests.harness import Server, free_port

FOLDER = Path(__file__).parents[3] / "deploy" / "kubernetes"


def documents() -> dict[str, dict[str, Any]]:
    """Return every manifest by its kind."""
    files = [*FOLDER.glob("base/*.yaml"), *FOLDER.glob("examples/*.yaml")]
    return {one["kind"]: one for path in files for one in yaml.safe_load_all(path.read_text())}


def test_what_is_named_is_there() -> None:
    known = documents()
    listed = set(known["Kustomization"]["resources"])
    assert listed == {path.name for path in (FOLDER / "base").glob("*.yaml")} - {
        "kustomization.yaml"
    }
    template = known["SandboxTemplate"]
    name, pod = template["metadata"]["name"], template["spec"]["podTemplate"]
    assert known["SandboxWarmPool"]["spec"]["sandboxTemplateRef"]["name"] == name
    pool = known["SandboxWarmPool"]["metadata"]["name"]
    assert known["SandboxClaim"]["spec"]["warmPoolRef"]["name"] == pool
    for kind, selector in (("NetworkPolicy", "podSelector"), ("PodMonitor", "selector")):
        wanted = known[kind]["spec"][selector]["matchLabels"]
        assert wanted.items() <= pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    mounted = {one["name"] for one in container["volumeMounts"]}
    assert mounted == {one["name"] for one in pod["spec"]["volumes"]}
    secret = next(one["secret"] for one in pod["spec"]["volumes"] if "secret" in one)
    (made,) = known["Kustomization"]["secretGenerator"]
    assert secret["secretName"] == made["name"]
    image = known["Kustomization"]["images"][0]["name"]
    assert container["image"] == image


def test_the_overlay_changes_what_is_there() -> None:
    """A patch by number changes another thing when somebody adds one before it."""
    template = documents()["SandboxTemplate"]
    overlay = yaml.safe_load((FOLDER / "apart" / "kustomization.yaml").read_text())
    patches = yaml.safe_load(overlay["patches"][0]["patch"])
    changed = {}
    for one in patches:
        place: Any = template
        *parts, last = one["path"].strip("/").split("/")
        for part in parts:
            place = place[int(part) if part.isdigit() else part]
        if one["op"] == "replace":
            assert last in place
            changed[place.get("name", last)] = one["value"]
        else:
            assert (one["op"], last) == ("add", "-")
            changed[one["value"]["name"]] = one["value"]["value"]
    assert changed["SANDKEEPER_STATE_DIR"] == "/var/lib/sandkeeper"
    assert changed["BL_SANDBOX_USER_ENABLED"] == "true"
    assert changed["defaultMode"] == 0o400


def test_a_server_with_its_variables_answers_its_probes(tmp_path: Path) -> None:
    (container,) = documents()["SandboxTemplate"]["spec"]["podTemplate"]["spec"]["containers"]
    env = {one["name"]: one["value"] for one in container["env"]}
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert container["args"] == ["--host", "0.0.0.0", "--port", str(ports["http"])]
    assert env["SANDKEEPER_RUNTIME_PORT"] == str(ports["runtime"])
    assert env["SANDKEEPER_GRPC_PORT"] == str(ports["grpc"])
    (tmp_path / "token").write_text("from-a-secret\n")
    runtime = free_port()
    here = {
        **env,
        "SANDKEEPER_TOKEN_FILE": str(tmp_path / "token"),
        "SANDKEEPER_STATE_DIR": str(tmp_path / "server" / "state"),
        "SANDKEEPER_RUNTIME_PORT": str(runtime),
        "SANDKEEPER_GRPC_PORT": str(free_port()),
        "WORKDIR": str(tmp_path / "server" / "work"),
        "HOME": str(tmp_path / "server" / "home"),
    }
    with Server(tmp_path / "server", env=here) as server:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container[probe]["httpGet"]
            assert asked["port"] == "http"
            assert httpx.get(server.url + asked["path"]).status_code == 200
        assert httpx.get(server.url + "/process").status_code == 401
        told = {"X-Blaxel-Authorization": "Bearer from-a-secret"}
        there = f"http://127.0.0.1:{runtime}/execute"
        assert httpx.post(there, json={"command": "pwd"}, headers=told).json()["exit_code"] == 0
        assert [one for one in server.log_lines() if "no setting" in one["msg"]] == []
