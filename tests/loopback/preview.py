"""What the operator makes of pods, offline: `mcp-auth-operator inject`, with a resource that selects all of them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import yaml

NAMESPACE = "llm"
# The parser in C, where PyYAML has it: a corpus takes minutes without.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
RESOURCE = {
    "apiVersion": "mcpauth.dev/v1alpha1",
    "kind": "McpServerAuth",
    "metadata": {"name": "tools", "namespace": NAMESPACE},
    "spec": {
        "server": {"name": "tools", "url": "https://tools.example.com/mcp"},
        "bearerToken": {"secretKeyRef": {"name": "tools", "key": "token"}},
    },
}


def inject(operator: str, pods: list[dict], values: Path | None = None) -> dict[str, tuple[set[str], dict]]:
    """Reasons and pod by name, with these values of the chart."""
    text = as_documents([*pods, RESOURCE])
    command = [operator, "inject", "--file", "-", "--namespace", NAMESPACE]
    command += ["--values", str(values)] if values else []
    answer = subprocess.run(command, input=text, capture_output=True, text=True, timeout=300, check=False)
    if answer.returncode not in (0, 1):
        sys.exit(f"error: {' '.join(command)}: {answer.stderr}")
    injected = {}
    for block in re.split(r"(?m)^(?=# pod: )", answer.stdout)[1:]:
        said, _, pod = block.partition("---\n")
        name = re.search(rf"^# pod: {NAMESPACE}/(\S+)", said).group(1)
        injected[name] = (set(re.findall(r"(?m)^# (?:reason|warning): (\w+)", said)), yaml.load(pod, Loader=LOADER))
    return injected


def as_documents(objects: list[dict]) -> str:
    """YAML, each document of which is JSON."""
    return "\n---\n".join(json.dumps(each, default=str) for each in objects)
