"""Holds metrics that a running program exposes against Prometheus' rules for names, units and help, by promtool."""

import re
import subprocess
import urllib.request

from ground import setting
from processes import LIMIT


def faults(program: str, url: str) -> list[str]:
    """What promtool says of the metrics at this URL."""
    with urllib.request.urlopen(url, timeout=LIMIT) as answer:
        exposed = answer.read().decode()
    command = [setting("MCPAUTH_SURFACES_PROMTOOL"), "check", "metrics"]
    checked = subprocess.run(command, input=plain(exposed), capture_output=True, text=True, timeout=LIMIT, check=False)
    lines = (checked.stdout + checked.stderr).splitlines()
    if checked.returncode and not lines:
        lines = [f"promtool ended with {checked.returncode}"]
    if not re.search(r"^mcpauth_", exposed, re.MULTILINE) or not exposed.endswith("# EOF\n"):
        lines.append("they are not all there")
    return [f"metrics of the {program}: {line}" for line in lines]


def plain(exposed: str) -> str:
    """OpenMetrics as the older text format, which is all that promtool reads: there the name of a counter ends in _total
    everywhere.

    >>> plain("# HELP a_calls Calls.\\n# TYPE a_calls counter\\na_calls_total 1\\n# HELP b B.\\n# TYPE b gauge\\nb 1\\n# EOF\\n")
    '# HELP a_calls_total Calls.\\n# TYPE a_calls_total counter\\na_calls_total 1\\n# HELP b B.\\n# TYPE b gauge\\nb 1\\n'
    """
    counters = re.findall(r"^# TYPE (\S+) counter$", exposed, re.MULTILINE)
    for name in counters:
        exposed = re.sub(rf"^# (HELP|TYPE) {re.escape(name)} ", rf"# \1 {name}_total ", exposed, flags=re.MULTILINE)
    return re.sub(r"^# (UNIT .*|EOF)\n", "", exposed, flags=re.MULTILINE)
