"""`deploy/`: what the manifests ask of this server is what it has, and the chart is the same.

That a real API server takes them, and that Helm and kubectl make of them what is made of them here,
`make fleet-test` states.
"""

import copy
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import jsonschema
import pytest
import yaml
from tests.harness import Server, free_port
from tests.later import Later

import sandkeeper

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "kubernetes"
kubernetes = Later("kubernetes.client.models")
"""Kubernetes' own description of its objects, as its client has it: unknown fields are refused."""

SHAPES = {
    *("Deployment", "Namespace", "NetworkPolicy", "PodDisruptionBudget", "Role", "RoleBinding"),
    *("Secret", "Service", "ServiceAccount"),
}
FIELDS = {
    "SandboxTemplate": {
        *("podTemplate", "envVarsInjectionPolicy", "networkPolicyManagement", "networkPolicy"),
        *("service", "volumeClaimTemplates", "volumeClaimTemplatesPolicy"),
    },
    "SandboxWarmPool": {"replicas", "sandboxTemplateRef", "updateStrategy"},
    "SandboxClaim": {
        *("warmPoolRef", "lifecycle", "additionalPodMetadata", "env", "volumeClaimTemplates"),
    },
    "PodMonitor": {"selector", "podMetricsEndpoints"},
}
"""Of what others define the first row of fields; of agent-sandbox 0.5.6."""


def chart() -> ModuleType:
    """Return what makes the chart; no package, for there is one of that name."""
    spec = importlib.util.spec_from_file_location("chart", ROOT / "packaging" / "chart.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def check(manifest: dict[str, Any]) -> None:
    """Fail if a manifest has what its kind has not."""
    kind = manifest["kind"]
    if kind in SHAPES:
        getattr(kubernetes, f"V1{kind}").model_validate(manifest)
        return
    assert manifest.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert manifest["spec"].keys() <= FIELDS[kind], kind
    if kind == "SandboxTemplate":
        kubernetes.V1PodTemplateSpec.model_validate(manifest["spec"]["podTemplate"])


@pytest.mark.parametrize("variant", ["base", "apart", "fleet"])
def test_every_manifest_has_the_shape_of_its_kind(variant: str) -> None:
    made = chart().render(FOLDER / variant)
    assert len(made) >= 4
    for one in made:
        check(one)
        broken = copy.deepcopy(one)
        broken.get("spec", broken)["replica"] = 1
        with pytest.raises((ValueError, AssertionError)):
            check(broken)


def test_a_misspelt_field_of_a_container_is_found() -> None:
    made = chart().render(FOLDER / "base")
    template = next(one for one in made if one["kind"] == "SandboxTemplate")
    template["spec"]["podTemplate"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(ValueError, match="readinesProbe"):
        check(template)


def test_the_fleet_finds_its_token_its_pool_and_the_door_to_its_sandboxes() -> None:
    sandboxes = documents()
    fleet = {
        f"{one['kind']}/{one['metadata']['name']}": one for one in chart().render(FOLDER / "fleet")
    }
    labels = {"app.kubernetes.io/name": "sandkeeper-fleet"}
    deployment = fleet["Deployment/sandkeeper-fleet"]["spec"]
    assert deployment["selector"]["matchLabels"] == labels
    assert deployment["template"]["metadata"]["labels"] == labels
    assert fleet["Service/sandkeeper-fleet"]["spec"]["selector"] == labels
    doors = sandboxes["NetworkPolicy"]["spec"]["ingress"]
    assert [one for one in doors if {"podSelector": {"matchLabels": labels}} in one["from"]]
    pod = deployment["template"]["spec"]
    assert f"ServiceAccount/{pod['serviceAccountName']}" in fleet
    (container,) = pod["containers"]
    env = {one["name"]: one["value"] for one in container["env"]}
    assert env["SANDKEEPER_FLEET_TEMPLATE"] == sandboxes["SandboxWarmPool"]["metadata"]["name"]
    assert f"Namespace/{env['SANDKEEPER_FLEET_KEYS_NAMESPACE']}" in fleet
    readable = [
        one["metadata"]["namespace"]
        for one in fleet.values()
        if one["kind"] == "Role" and "secrets" in json.dumps(one["rules"])
    ]
    assert readable == [env["SANDKEEPER_FLEET_KEYS_NAMESPACE"]]
    mounted = [one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one]
    token = sandboxes["Kustomization"]["secretGenerator"][0]["name"]
    # No sandbox has the other one.
    assert mounted == [token, "sandkeeper-fleet"]
    assert fleet["Secret/sandkeeper-fleet"]["stringData"].keys() == {"secret"}
    assert env["SANDKEEPER_FLEET_SECRET_FILE"] == "/etc/sandkeeper-fleet/secret"


def test_every_example_has_the_shape_of_its_kind() -> None:
    examples = [
        one
        for path in sorted((FOLDER / "examples").glob("*.yaml"))
        for one in yaml.safe_load_all(path.read_text())
    ]
    for one in examples:
        check(one)
    assert {one["kind"] for one in examples} >= {"SandboxClaim", "PodMonitor", "Role"}


def test_the_chart_is_made_of_the_manifests() -> None:
    folder = ROOT / "deploy" / "helm" / "sandkeeper"
    there = {path.name: path.read_text() for path in (folder / "templates").glob("*.yaml")}
    assert there == chart().templates(), "scripts/chart makes it anew"


def leaves(values: dict[str, Any], schema: dict[str, Any], above: str = "") -> Iterator[str]:
    """Return the values that the chart knows by name, not what is whole in them."""
    for name, value in values.items():
        below = schema["properties"][name]
        if "properties" in below:
            yield from leaves(value, below, f"{above}{name}.")
        else:
            yield above + name


def test_every_value_of_the_chart_is_described_and_used() -> None:
    folder = ROOT / "deploy" / "helm" / "sandkeeper"
    values = yaml.safe_load((folder / "values.yaml").read_text())
    schema = json.loads((folder / "values.schema.json").read_text())
    jsonschema.validate(values, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**values, "replicas": 3}, schema)
    known = set(leaves(values, schema))
    text = "".join(path.read_text() for path in (folder / "templates").iterdir())
    assert set(re.findall(r"\.Values\.([\w.]+)", text)) == known
    about = yaml.safe_load((folder / "Chart.yaml").read_text())
    assert about["appVersion"] == sandkeeper.__version__


def documents() -> dict[str, dict[str, Any]]:
    """Return every manifest of sandboxes by its kind; the fleet's have a folder of their own."""
    files = [*FOLDER.glob("base/*.yaml"), *FOLDER.glob("examples/[!f]*.yaml")]
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
    monitor = yaml.safe_load((FOLDER / "examples" / "fleet-podmonitor.yaml").read_text())
    check(monitor)
    deployed = next(yaml.safe_load_all((FOLDER / "fleet" / "deployment.yaml").read_text()))
    replica = deployed["spec"]["template"]
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= replica["metadata"]["labels"].items()
    (port,) = [one["port"] for one in monitor["spec"]["podMetricsEndpoints"]]
    assert port in {one["name"] for one in replica["spec"]["containers"][0]["ports"]}
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
    env = {one["name"]: one.get("value", "") for one in container["env"]}
    (named,) = [one["valueFrom"] for one in container["env"] if "valueFrom" in one]
    assert named == {"fieldRef": {"fieldPath": "metadata.name"}}
    env["SANDKEEPER_SANDBOX_NAME"] = "sandkeeper-abcde"
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
