"""Looks whether alerts, their tests and the dashboard fit together: each alert is fired by a test and explained in
docs/metrics.md, and each metric that an expression names is there, which tests of the programs compare with what they
expose. `run` starts it."""

import json
import pathlib
import re
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
ALERTS = REPOSITORY / "charts/mcp-auth/files/alerts.yaml"
DASHBOARD = REPOSITORY / "charts/mcp-auth/files/dashboard.json"
TESTS = REPOSITORY / "tests/alerts/tests.yaml"
DOCUMENT = REPOSITORY / "docs/metrics.md"


def documented():
    """Names of series: a histogram has three."""
    names = set()
    for name, kind in re.findall(r"^\| `(mcpauth_\w+)` \| (\w+) \|", DOCUMENT.read_text(), re.MULTILINE):
        names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return names


def stated_alerts():
    """Name, severity and duration of each alert."""
    for name, rule in re.findall(r"^\s*- alert: (\w+)$(.*?)(?=^\s*- alert:|\Z)", ALERTS.read_text(), re.MULTILINE | re.DOTALL):
        stated = dict(re.findall(r"\b(severity|for): (\w+)", rule))
        yield name, stated.get("severity"), stated.get("for", "0m")


def expressions():
    """Where metrics are named, and the text that does."""
    alerts = re.sub(r"^\s*(summary|description):.*?(?=^\s*- |^\s{4}\S|\Z)", "", ALERTS.read_text(), flags=re.MULTILINE | re.DOTALL)
    yield ALERTS, alerts
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            yield DASHBOARD, target["expr"]


def main():
    errors = []
    known = documented()
    if not known:
        errors.append(f"{DOCUMENT} names no metric")
    used = 0
    for path, text in expressions():
        for name in sorted(set(re.findall(r"\bmcpauth_\w+", text))):
            used += 1
            if name not in known:
                errors.append(f"{path.relative_to(REPOSITORY)} names {name}, which is not in docs/metrics.md")
    alerts = [name for name, _, _ in stated_alerts()]
    explained = set(re.findall(r"^\| `(McpAuth\w+)` \| (\w+) \| (\w+) \|", DOCUMENT.read_text(), re.MULTILINE))
    for alert in sorted(explained ^ set(stated_alerts())):
        errors.append(f"{alert} is in only one of alerts.yaml and docs/metrics.md")
    tests = TESTS.read_text()
    fired = set(re.findall(r"alertname: (\w+)\s*(?:,|\n\s*) ?exp_alerts:", tests))
    errors += [f"no test fires {alert}" for alert in alerts if alert not in fired]
    errors += [f"no test keeps {alert} silent" for alert in alerts if f"alertname: {alert}}}" not in tests]
    if not alerts or not used:
        errors.append("neither alerts nor metrics were found: this check looks for them in the wrong way")
    if errors:
        sys.exit("\n".join(f"error: {error}" for error in errors))
    print(f"{len(alerts)} alerts, {used} uses of {len(known)} series")


main()
