"""The panels of the chart's dashboard: titles, queries and legends as Grafana has them."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DASHBOARD = REPOSITORY / "charts/mcp-auth/files/dashboard.json"


@dataclass(frozen=True)
class Target:
    expr: str
    legend: str

    def expression(self, rate_interval: int) -> str:
        """What Grafana asks Prometheus, with everything chosen in the dashboard's variables."""
        expression = self.expr.replace("$__rate_interval", f"{rate_interval}s")
        expression = re.sub(r"\$(namespace|server)\b", ".*", expression)
        if "$" in expression:
            raise ValueError(f"a variable is not known here: {expression}")
        return expression

    def legend_of(self, labels: dict[str, str]) -> str:
        return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), self.legend)


@dataclass(frozen=True)
class Panel:
    title: str
    description: str
    unit: str
    targets: list[Target]

    @property
    def name(self) -> str:
        """Of its picture's file."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def panels() -> list[Panel]:
    found = []
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        targets = [Target(target["expr"], target["legendFormat"]) for target in panel["targets"]]
        unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "short")
        found.append(Panel(panel["title"], panel["description"], unit, targets))
    return found
