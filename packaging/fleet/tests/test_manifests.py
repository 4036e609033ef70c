"""What a real API server, kubectl and Helm make of `deploy/`."""

import json
import shutil
import subprocess
from collections.abc import Iterable
from typing import Any

import chart
import cluster
import pytest
import yaml
from pools import Fleet

HELM = cluster.CACHE / "bin" / "helm"
NATIVE = {"PodMonitor"}
"""What only a cluster with Prometheus' operator knows."""

WITH_FLEET = ("fleet.enabled=true", "fleet.secret=not-a-default")
VALUES: tuple[tuple[str, ...], ...] = (
    ("token.value=x",),
    ("token.existingSecret=mine", "apart=true", "networkPolicy.enabled=false"),
    ("token.value=x", *WITH_FLEET, "fleet.domain=boxes.example.org", "fleet.image.tag=v7"),
    (
        *("token.value=x", "apart=true", *WITH_FLEET, "env[0].name=A", "env[0].value=b"),
        *("volumes[0].name=data", "volumes[0].emptyDir.medium=Memory"),
        *("volumeMounts[0].name=data", "volumeMounts[0].mountPath=/data"),
        *("podSpec.runtimeClassName=gvisor", "resources.limits.cpu=2", "pool.replicas=0"),
    ),
)
"""What is said to the chart: a token of its own or another's, apart, a fleet, more of each."""


def named(manifests: Any) -> dict[str, Any]:
    """Return manifests by what they are and how they are called."""
    return {
        f"{one['kind']}/{one['metadata'].get('namespace', '')}/{one['metadata']['name']}": one
        for one in manifests
        if one
    }


def kinds(made: dict[str, Any]) -> dict[str, Any]:
    return {one["kind"]: one for one in made.values()}


def said_to_helm(settings: Iterable[str]) -> list[str]:
    return [word for one in settings for word in ("--set", one)]


def run_helm(*words: str) -> str:
    done = subprocess.run([str(HELM), *words], check=True, capture_output=True, text=True)
    return done.stdout


def helm(*settings: str) -> dict[str, Any]:
    words = ("template", "sandkeeper", str(chart.CHART), "--namespace", "default")
    # One that was built from a module does not know which Kubernetes it was made for.
    version = "--kube-version=1.36.3"
    return named(yaml.safe_load_all(run_helm(*words, version, *said_to_helm(settings))))


@pytest.mark.parametrize("variant", ["base", "apart"])
def test_kubectl_and_helm_make_the_same_of_one_definition(variant: str) -> None:
    theirs = {}
    for folder in (variant, "fleet"):
        words = [shutil.which("kubectl") or "kubectl", "kustomize", str(chart.KUSTOMIZE / folder)]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        made = named(yaml.safe_load_all(done.stdout))
        assert named(chart.render(chart.KUSTOMIZE / folder)) == made
        theirs.update(made)

    apart = "true" if variant == "apart" else "false"
    said = ("token.value=change-me", "fleet.enabled=true", "fleet.secret=change-me")
    assert helm(*said, f"apart={apart}") == theirs


def test_the_chart_asks_for_a_token_and_takes_what_is_said() -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        helm()
    assert "token.value or token.existingSecret is needed" in failed.value.stderr
    with pytest.raises(subprocess.CalledProcessError):
        helm("token.value=x", "replicas=3")

    made = helm(
        "token.existingSecret=mine",
        "pool.replicas=7",
        "podMonitor.enabled=true",
        "networkPolicy.enabled=false",
        "image.tag=v2",
        "image.pullPolicy=Always",
        "env[0].name=GREETING",
        "env[0].value=hello",
        "volumes[0].name=data",
        "volumes[0].emptyDir.medium=Memory",
        "volumeMounts[0].name=data",
        "volumeMounts[0].mountPath=/data",
        "podSpec.runtimeClassName=gvisor",
    )
    made = kinds(made)
    assert made.keys() == {"SandboxTemplate", "SandboxWarmPool", "PodMonitor"}
    assert made["SandboxWarmPool"]["spec"]["replicas"] == 7
    pod = made["SandboxTemplate"]["spec"]["podTemplate"]["spec"]
    (container,) = pod["containers"]
    assert pod["runtimeClassName"] == "gvisor"
    assert container["image"].endswith(":v2")
    assert container["imagePullPolicy"] == "Always"
    assert container["env"][-1] == {"name": "GREETING", "value": "hello"}
    assert container["volumeMounts"][-1] == {"name": "data", "mountPath": "/data"}
    assert pod["volumes"][-1] == {"name": "data", "emptyDir": {"medium": "Memory"}}
    secrets = [one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one]
    assert secrets == ["mine"]


def test_a_real_api_server_takes_every_manifest(fleet: Fleet) -> None:
    keys = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "sandkeeper-keys"}}
    fleet.kubectl("apply", "-f", "-", text=json.dumps(keys))
    texts = [
        json.dumps(one)
        for name in ("base", "apart", "fleet")
        for one in chart.render(chart.KUSTOMIZE / name)
    ]
    for path in sorted((chart.KUSTOMIZE / "examples").glob("*.yaml")):
        texts.extend(
            json.dumps(one)
            for one in yaml.safe_load_all(path.read_text())
            if one["kind"] not in NATIVE
        )
    asked = ("apply", "--dry-run=server", "--validate=strict", "-f", "-")
    said = [fleet.kubectl(*asked, text=text) for text in texts]
    assert len(said) >= 20
    assert all("dry run" in one for one in said)

    wrong = json.loads(texts[0])
    wrong["spec"]["podTemplate"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(RuntimeError, match="readinesProbe"):
        fleet.kubectl(
            "apply", "--dry-run=server", "--validate=strict", "-f", "-", text=json.dumps(wrong)
        )


@pytest.mark.parametrize("number", range(len(VALUES)))
def test_helm_finds_no_fault_and_a_real_api_server_takes_what_it_makes(
    fleet: Fleet, number: int
) -> None:
    settings = said_to_helm(VALUES[number])
    there = f"--kubeconfig={fleet.cluster.kubeconfig}"
    run_helm("lint", "--strict", str(chart.CHART), *settings)
    words = ("install", f"tried-{number}", str(chart.CHART), there, "--namespace=default")
    run_helm(*words, "--take-ownership", "--dry-run=server", *settings)
    for one in helm(*VALUES[number]).values():
        if one["metadata"].get("namespace", "default") == "default":
            asked = ("apply", "--dry-run=server", "--validate=strict", "-f", "-")
            assert "dry run" in fleet.kubectl(*asked, text=json.dumps(one))


def test_a_release_is_installed_changed_and_taken_away(fleet: Fleet) -> None:
    said = ("token.value=x", *WITH_FLEET, "fleet.replicas=0")
    there = (f"--kubeconfig={fleet.cluster.kubeconfig}", "--namespace=released")
    # The namespace of keys may be there already: no release takes it along.
    first = ("--create-namespace", "--take-ownership")
    place = str(chart.CHART)
    run_helm("install", "mine", place, *there, *first, *said_to_helm((*said, "pool.replicas=0")))

    def replicas() -> int:
        pool = fleet.get("sandboxwarmpools", "mine", "-n", "released")
        return int(pool["spec"].get("replicas", 0))

    assert replicas() == 0
    deployed = fleet.get("deployments", "mine-fleet", "-n", "released")["spec"]["template"]["spec"]
    names = {one["secret"]["secretName"] for one in deployed["volumes"] if "secret" in one}
    assert names == {
        one["metadata"]["name"] for one in fleet.get("secrets", "-n", "released")["items"]
        if one["type"] == "Opaque"
    }  # fmt: skip
    run_helm("upgrade", "mine", place, *there, *said_to_helm((*said, "pool.replicas=1")))
    assert replicas() == 1
    run_helm("uninstall", "mine", *there, "--wait")
    for kind in ("sandboxtemplates", "sandboxwarmpools", "deployments", "networkpolicies", "roles"):
        assert fleet.get(kind, "-n", "released")["items"] == []
    assert fleet.get("namespace", "sandkeeper-keys")["status"]["phase"] == "Active"


@pytest.mark.parametrize(
    ("variant", "level"), [("base", "restricted"), ("fleet", "restricted"), ("apart", "baseline")]
)
def test_pods_fit_the_standard_for_their_security(fleet: Fleet, variant: str, level: str) -> None:
    """Kubernetes' own admission judges them, in a namespace that enforces the standard."""
    space = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": f"only-{level}",
            "labels": {"pod-security.kubernetes.io/enforce": level},
        },
    }
    fleet.kubectl("apply", "-f", "-", text=json.dumps(space))
    fleet.wait_for_account(f"only-{level}")
    made = kinds(named(chart.render(chart.KUSTOMIZE / variant)))
    kind, field = (
        ("Deployment", "template") if variant == "fleet" else ("SandboxTemplate", "podTemplate")
    )
    template = made[kind]["spec"][field]
    # An account of another namespace; who the Pod is is another's matter.
    template["spec"].pop("serviceAccountName", None)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "one", "namespace": f"only-{level}"},
        "spec": template["spec"],
    }
    fleet.kubectl("create", "--dry-run=server", "-f", "-", text=json.dumps(pod))
    pod["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    with pytest.raises(RuntimeError, match="violates PodSecurity"):
        fleet.kubectl("create", "--dry-run=server", "-f", "-", text=json.dumps(pod))


def test_who_claims_may_claim_and_no_more(fleet: Fleet) -> None:
    fleet.kubectl("apply", "-f", str(chart.KUSTOMIZE / "examples" / "rbac.yaml"))

    def may(verb: str, kind: str) -> bool:
        return allowed(fleet, "sandbox-user", verb, kind)

    assert all(may(verb, "sandboxclaims") for verb in ("create", "watch", "patch", "delete"))
    assert may("watch", "sandboxes")
    assert not may("get", "secrets")
    assert not may("create", "pods")
    assert not may("create", "pods/exec")
    assert not may("delete", "sandboxwarmpools")


def test_the_fleet_may_do_what_it_does_and_no_more(fleet: Fleet) -> None:
    texts = [json.dumps(one) for one in chart.render(chart.KUSTOMIZE / "fleet")]
    rights = [one for one in texts if json.loads(one)["apiVersion"].startswith(("v1", "rbac"))]
    fleet.kubectl("apply", "-f", "-", text="\n".join(rights))

    def may(verb: str, kind: str, namespace: str = "default") -> bool:
        return allowed(fleet, "sandkeeper-fleet", verb, kind, namespace)

    assert all(may(verb, "sandboxclaims") for verb in ("create", "watch", "patch", "delete"))
    assert may("patch", "sandboxes")
    assert may("watch", "secrets", "sandkeeper-keys")
    assert not may("watch", "secrets")
    assert not may("create", "pods")
    assert not may("delete", "sandboxes")


def allowed(fleet: Fleet, who: str, verb: str, kind: str, namespace: str = "default") -> bool:
    words = ["kubectl", f"--kubeconfig={fleet.cluster.kubeconfig}", "-n", namespace]
    words += [f"--as=system:serviceaccount:default:{who}", "auth", "can-i", verb, kind]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() == "yes"
