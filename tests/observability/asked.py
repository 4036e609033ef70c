"""What the dashboard and the alert rules of `deploy/` ask Prometheus for."""

import json
import re
from pathlib import Path

import yaml

__all__ = ["FLEET", "expressions", "missing"]

DEPLOY = Path(__file__).parents[2] / "deploy" / "observability"
OF_THE_SCRAPE = {"namespace", "pod", "instance", "le"}
"""Labels that Prometheus adds, and the bounds of buckets."""
FLEET = "sandkeeper_fleet_"


def expressions(*, fleet: bool) -> list[str]:
    """Return what is asked of servers in sandboxes, or of replicas of a fleet."""
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    asked += [one["definition"] for one in dashboard["templating"]["list"] if "definition" in one]
    (group,) = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
    asked += [rule["expr"] for rule in group["rules"]]
    return [one for one in asked if (FLEET in one) == fleet]


def missing(asked: list[str], text: str) -> set[str]:
    """Return the names, and labels of names, that are asked for and not in a `/metrics`."""
    labels: dict[str, set[str]] = {}
    for name, inner in re.findall(r"^([a-z_]+)(?:\{(.*)\})? ", text, re.MULTILINE):
        labels.setdefault(name, set()).update(re.findall(r'([a-z_]+)="', inner))
    names = {name for one in asked for name in re.findall(r"\b(?:sandkeeper|process)_\w+", one)}
    selected = {
        (name, label)
        for one in asked
        for name, inner in re.findall(r"(\w+)\{([^}]*)\}", one)
        for label in re.findall(r"(\w+)[!=]?[=~]\"", inner)
    }
    wrong = {f"{n}: {x}" for n, x in selected if x not in labels.get(n, set()) | OF_THE_SCRAPE}
    return wrong | (names - labels.keys())
