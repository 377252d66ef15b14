"""Prints the dashboard's queries as recording rules, in JSON, which is YAML: promtool then says whether Prometheus could read
them. `run` starts it."""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "dashboard"))

from panels import panels

rules = [
    {"record": f"panel:{panel.name.replace('-', '_')}:{number}", "expr": target.expression(60)}
    for panel in panels()
    for number, target in enumerate(panel.targets)
]
if not rules:
    sys.exit("error: the dashboard has no query")
print(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
