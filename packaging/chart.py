"""Makes the Helm chart's templates of the kustomize manifests, which are the one definition.

    scripts/chart            writes deploy/helm/sandkeeper/templates

`render` is the part of kustomize that these manifests use (a test of `make fleet-test` holds it
against kubectl's), `templates` puts an expression of Helm in the place of what a chart's user says.
"""

import base64
import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
KUSTOMIZE = ROOT / "deploy" / "kubernetes"
CHART = ROOT / "deploy" / "helm" / "sandkeeper"
HEAD = "{{- /* Made by scripts/chart of deploy/kubernetes, where it is to be changed. */ -}}\n"

NAMES = {
    "sandkeeper": "{{ .Release.Name }}",
    "sandkeeper-token": '{{ include "sandkeeper.secret" . }}',
    "sandkeeper-fleet": "{{ .Release.Name }}-fleet",
    "sandboxes.example.com": "{{ .Values.fleet.domain | quote }}",
}
"""What names of the manifests are in a release."""

Manifest = dict[str, Any]


class Indented(yaml.SafeDumper):
    """YAML as people write it: lists stand two to the right, and short ones are not references."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists too."""
        super().increase_indent(flow, False)

    def ignore_aliases(self, _data: Any) -> bool:
        """Write everything out."""
        return True


def render(folder: Path) -> list[Manifest]:
    """Return what `kubectl kustomize` makes of a folder, in the order of its files.

    :raises ValueError: it uses what is not understood here.
    """
    plan = yaml.safe_load((folder / "kustomization.yaml").read_text())
    unknown = set(plan) - {
        *("apiVersion", "kind", "generatorOptions"),
        *("namespace", "resources", "secretGenerator", "patches", "images"),
    }
    if unknown:
        raise ValueError(f"{folder}: not understood here: {', '.join(sorted(unknown))}")
    made = [one for name in plan["resources"] for one in _read(folder / name)]
    made.extend(_secret(one) for one in plan.get("secretGenerator", ()))
    for patch in plan.get("patches", ()):
        _patch(made, patch)
    names = {one["name"]: f"{one['newName']}:{one['newTag']}" for one in plan.get("images", ())}
    for container in (one for manifest in made for one in _containers(manifest)):
        container["image"] = names.get(container["image"], container["image"])
    if "namespace" in plan:
        for one in made:
            one["metadata"]["namespace"] = plan["namespace"]
            for subject in one.get("subjects", ()):
                subject.setdefault("namespace", plan["namespace"])
    return made


def _read(path: Path) -> list[Manifest]:
    return render(path) if path.is_dir() else [*yaml.safe_load_all(path.read_text())]


def _patch(made: list[Manifest], patch: dict[str, Any]) -> None:
    target = patch["target"]
    (found,) = (
        one
        for one in made
        if (one["kind"], one["metadata"]["name"]) == (target["kind"], target["name"])
    )
    for step in yaml.safe_load(patch["patch"]):
        change(found, step)


def _secret(made: dict[str, Any]) -> Manifest:
    pairs = dict(one.split("=", 1) for one in made["literals"])
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": made["name"]},
        "type": "Opaque",
        "data": {key: base64.b64encode(one.encode()).decode() for key, one in pairs.items()},
    }


def change(one: Manifest, step: dict[str, Any]) -> None:
    """Take a step of a JSON patch (RFC 6902): `add`, `replace` or `remove`."""
    *parts, last = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")]
    place: Any = one
    for part in parts[1:]:
        place = place[int(part) if isinstance(place, list) else part]
    key: Any = int(last) if isinstance(place, list) and last != "-" else last
    if step["op"] == "remove":
        del place[key]
    elif step["op"] == "add" and isinstance(place, list):
        place.insert(len(place) if key == "-" else key, step["value"])
    elif step["op"] == "add" or (step["op"] == "replace" and place[key] is not None):
        place[key] = step["value"]
    else:
        raise ValueError(f"no such step: {step['op']}")


def _pod(one: Manifest) -> Manifest | None:
    """Return the description of a Pod that a manifest has in it."""
    spec = one.get("spec", {})
    found: Manifest | None = spec.get("podTemplate", spec.get("template", {})).get("spec")
    return found


def _containers(one: Manifest) -> Iterator[Manifest]:
    yield from (_pod(one) or {}).get("containers", ())


def templates() -> dict[str, str]:
    """Return the chart's templates by their file names."""
    base = {one["kind"]: one for one in render(KUSTOMIZE / "base")}
    apart = {one["kind"]: one for one in render(KUSTOMIZE / "apart")}
    (monitor,) = yaml.safe_load_all((KUSTOMIZE / "examples" / "podmonitor.yaml").read_text())
    if {kind for kind in base if base[kind] != apart[kind]} != {"SandboxTemplate"}:
        raise ValueError("deploy/kubernetes/apart changes more than the chart's `apart` does")
    both = (
        "{{- if .Values.apart }}\n"
        + _written(apart["SandboxTemplate"])
        + "{{- else }}\n"
        + _written(base["SandboxTemplate"])
        + "{{- end }}\n"
    )
    made = {
        "template.yaml": both,
        "warmpool.yaml": _written(base["SandboxWarmPool"]),
        "networkpolicy.yaml": _when(".Values.networkPolicy.enabled", base["NetworkPolicy"]),
        "secret.yaml": _when("not .Values.token.existingSecret", base["Secret"]),
        "podmonitor.yaml": _when(".Values.podMonitor.enabled", monitor),
    }
    if len(made) != len(base) + 1:
        raise ValueError("deploy/kubernetes/base has what the chart has not")
    fleet = "---\n".join(_written(one) for one in render(KUSTOMIZE / "fleet"))
    made["fleet.yaml"] = f"{{{{- if .Values.fleet.enabled }}}}\n{fleet}{{{{- end }}}}\n"
    return {name: HEAD + text for name, text in made.items()}


def _when(condition: str, one: Manifest) -> str:
    return f"{{{{- if {condition} }}}}\n{_written(one)}{{{{- end }}}}\n"


def _written(one: Manifest) -> str:
    """Return a manifest as YAML with expressions of Helm in it."""
    marked = copy.deepcopy(one)
    said: dict[str, str] = {}

    def say(expression: str) -> str:
        mark = f"HELM{len(said)}MARK"
        said[mark] = expression
        return mark

    marked = _named(marked, say)
    spec = marked.get("spec", {})
    if one["kind"] == "SandboxWarmPool":
        spec["replicas"] = say("{{ .Values.pool.replicas }}")
    if one["kind"] == "Deployment":
        spec["replicas"] = say("{{ .Values.fleet.replicas }}")
    if one["kind"] == "Secret" and "stringData" in one:
        said_so = 'required "fleet.secret is needed" .Values.fleet.secret'
        marked["stringData"]["secret"] = say(f"{{{{ {said_so} | quote }}}}")
    elif one["kind"] == "Secret":
        told = "token.value or token.existingSecret is needed"
        marked["data"]["token"] = say(f'{{{{ required "{told}" .Values.token.value | b64enc }}}}')
    for container in _containers(marked):
        whose = ".Values.fleet.image" if one["kind"] == "Deployment" else ".Values.image"
        container["image"] = say(f'"{{{{ {whose}.repository }}}}:{{{{ {whose}.tag }}}}"')
    if one["kind"] == "SandboxTemplate":
        _open(spec["podTemplate"]["spec"], say)
    text = yaml.dump(marked, Dumper=Indented, sort_keys=False, width=100)
    lines = []
    for line in text.splitlines():
        whole = next(
            (mark for mark in said if line.strip() in {f"{mark}: null", f"- {mark}"}), None
        )
        # A block of its own says by itself how far in it stands.
        lines.append(said[whole] if whole else _filled(line, said))
    return "\n".join(lines) + "\n"


def _filled(line: str, said: dict[str, str]) -> str:
    for mark, expression in said.items():
        line = line.replace(mark, expression) if mark in line else line
    return line


def _named(value: Any, say: Any, key: str = "") -> Any:
    """Return a piece of a manifest with the release's names in it; labels stay what they are."""
    if isinstance(value, dict):
        return {one: _named(deep, say, one) for one, deep in value.items()}
    if isinstance(value, list):
        return [_named(one, say, key) for one in value]
    names = {**NAMES, **({"default": "{{ .Release.Namespace }}"} if key == "namespace" else {})}
    return say(names[value]) if value in names and "/" not in key else value


def _open(pod: Manifest, say: Any) -> None:
    """Let a chart's user say what belongs to an installation: resources, what is mounted, more."""
    (container,) = pod["containers"]
    container["resources"] = {say("{{- toYaml .Values.resources | nindent 12 }}"): None}
    for where, key, place in ((container, "env", 12), (container, "volumeMounts", 12)):
        where[key] = [*where[key], say(_more(key, place))]
    pod["volumes"] = [*pod["volumes"], say(_more("volumes", 8))]
    container[say(_block("image.pullPolicy", "imagePullPolicy: {{ . }}", 10))] = None
    pod[say(_block("podSpec", "{{- toYaml . | nindent 6 }}", 0))] = None


def _more(key: str, place: int) -> str:
    return f"{{{{- with .Values.{key} }}}}\n{{{{- toYaml . | nindent {place} }}}}\n{{{{- end }}}}"


def _block(value: str, text: str, place: int) -> str:
    return f"{{{{- with .Values.{value} }}}}\n{' ' * place}{text}\n{{{{- end }}}}"


def main() -> None:
    """Write the templates; says 1 and writes nothing with `--check` where they differ."""
    made = templates()
    folder = CHART / "templates"
    there = {path.name: path.read_text() for path in folder.glob("*.yaml")}
    if "--check" in sys.argv:
        sys.exit(there != made)
    for name in set(there) - set(made):
        (folder / name).unlink()
    for name, text in made.items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main()
