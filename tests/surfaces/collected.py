"""A real OpenTelemetry Collector that the sidecars of a run send their audit lines and spans to, and what must hold of what it
has understood: each tool call that arrived at the MCP server is one log record and one span, which fit each other.
"""

import json
import time
from collections.abc import Iterable
from pathlib import Path

import kubernetes
from ground import Ground, local, setting
from processes import LIMIT

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "audit.schema.json"
CALL = "tools/call"
# Of OpenTelemetry: a span of kind client.
CLIENT = 3
# Attributes of a record, and of a span, by the fields of the audit line that they repeat, as docs/audit.md says.
OF_LINE = {
    "mcpauth.server": "server",
    "mcpauth.resource": "resource",
    "mcpauth.outcome": "outcome",
    "mcp.method.name": "method",
    "gen_ai.tool.name": "tool",
    "http.response.status_code": "status",
}
OF_SPAN = OF_LINE | {"mcpauth.request": "request", "http.request.method": "httpMethod"}

# A record or a span, its attributes, and those of its resource.
Item = tuple[dict, dict[str, str], dict[str, str]]


class Collector:
    def __init__(self, ground: Ground) -> None:
        self.records_file, self.spans_file = ground.folder / "records.jsonl", ground.folder / "spans.jsonl"
        port = ground.port()
        pipelines = {signal: {"receivers": ["otlp"], "exporters": [f"file/{signal}"]} for signal in ("logs", "traces")}
        configuration = {
            "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"127.0.0.1:{port}"}}}},
            "exporters": {"file/logs": {"path": str(self.records_file)}, "file/traces": {"path": str(self.spans_file)}},
            # It would listen at a port of its own for its metrics.
            "service": {"pipelines": pipelines, "telemetry": {"metrics": {"level": "none"}}},
        }
        # JSON is YAML.
        file = ground.write("collector.yaml", json.dumps(configuration))
        ground.processes.start("collector", [setting("MCPAUTH_SURFACES_COLLECTOR"), "--config", str(file)])
        self.settings = {
            "MCPAUTH_AUDIT_LOG": "otlp",
            "MCPAUTH_TRACING": "enabled",
            "MCPAUTH_OTLP_ENDPOINT": local(port),
        }

    def faults(self, arrived: dict[str, int]) -> list[str]:
        """What is not as it should be; `arrived` is how many tool calls the MCP server got by each pod."""
        end = time.monotonic() + LIMIT
        wanted = sum(arrived.values())
        # Sidecars send what they have each half second.
        while time.monotonic() < end and min(map(len, (self.records(), self.spans()))) < wanted:
            time.sleep(0.2)
        uids = {pod: kubernetes.uid(pod) for pod in arrived}
        return judged(self.records(), self.spans(), arrived, uids)

    def records(self) -> list[Item]:
        return tool_calls(self.records_file, "resourceLogs", "scopeLogs", "logRecords")

    def spans(self) -> list[Item]:
        return tool_calls(self.spans_file, "resourceSpans", "scopeSpans", "spans")


def judged(records: list[Item], spans: list[Item], arrived: dict[str, int], uids: dict[str, str]) -> list[str]:
    """What is not as it should be; `uids` are the pods'."""
    by_request = {attributes["mcpauth.request"]: span for span, attributes, _ in spans}
    found = []
    for pod, calls in arrived.items():
        of_pod = [each for each in records if each[2].get("k8s.pod.name") == pod]
        if not calls or len(of_pod) != calls:
            found.append(f"{calls} tool calls of {pod} arrived at the MCP server, and {len(of_pod)} records at the collector")
    for record, attributes, resource in records:
        line = json.loads(record["body"]["stringValue"])
        found += of_schema(line) + of_resource(resource, line["pod"], uids)
        found += [f"the record's {wrong}" for wrong in differences(attributes, OF_LINE, line)]
        span = by_request.get(line["request"])
        if span is None:
            found.append(f"the call {line['request']} has no span")
            continue
        found += [f"the span's {wrong}" for wrong in of_span(span, line)]
        if (record["traceId"], record["spanId"]) != (span["traceId"], span["spanId"]):
            found.append(f"the record of {line['request']} is of another span than that call's")
    return sorted(set(found))


def of_span(span: dict, line: dict) -> Iterable[str]:
    attributes = plain(span["attributes"])
    yield from differences(attributes, OF_SPAN, line)
    if (span["name"], span["kind"]) != (f"{CALL} {line['tool']}", CLIENT):
        yield f"name and kind are {span['name']}, {span['kind']}"
    if span["traceId"] != line["traceId"]:
        yield f"trace is {span['traceId']}, and the line's {line['traceId']}"
    if int(span["endTimeUnixNano"]) < int(span["startTimeUnixNano"]):
        yield "end is before its start"
    if "user.id" in attributes:
        yield "attributes name the user"


def tool_calls(file: Path, resources: str, scopes: str, items: str) -> list[Item]:
    """Records or spans of tool calls."""
    # A line that is being written is read the next time.
    text = file.read_text().rpartition("\n")[0] if file.exists() else ""
    found = []
    for batch in map(json.loads, text.splitlines()):
        for each in batch[resources]:
            resource = plain(each["resource"]["attributes"])
            for item in (item for scope in each[scopes] for item in scope[items]):
                attributes = plain(item["attributes"])
                if attributes.get("mcp.method.name") == CALL:
                    found.append((item, attributes, resource))
    return found


def plain(attributes: list[dict]) -> dict[str, str]:
    """OTLP says whole numbers as text.

    >>> plain([{"key": "a", "value": {"stringValue": "b"}}, {"key": "c", "value": {"intValue": "200"}}])
    {'a': 'b', 'c': '200'}
    """
    return {each["key"]: str(next(iter(each["value"].values()))) for each in attributes}


def differences(attributes: dict[str, str], fields: dict[str, str], line: dict) -> list[str]:
    """
    >>> differences({"a": "200"}, {"a": "status", "b": "tool"}, {"status": 200, "tool": "t"})
    ["b is None, and the audit line's tool t"]
    """
    pairs = [(name, attributes.get(name), field, str(line.get(field))) for name, field in fields.items()]
    return [f"{name} is {has}, and the audit line's {field} {wanted}" for name, has, field, wanted in pairs if has != wanted]


def of_schema(line: dict) -> list[str]:
    """Names of fields; tests of the sidecar hold lines against the whole schema."""
    schema = json.loads(SCHEMA.read_text())
    missing, unknown = set(schema["required"]) - set(line), set(line) - set(schema["properties"])
    return [f"an audit line lacks {sorted(missing)} and has {sorted(unknown)}"] if missing or unknown else []


def of_resource(resource: dict[str, str], pod: str, uids: dict[str, str]) -> list[str]:
    wanted = {
        "service.name": "mcp-auth-sidecar",
        "k8s.namespace.name": kubernetes.NAMESPACE,
        "k8s.pod.name": pod,
        "k8s.pod.uid": uids.get(pod),
    }
    found = {name: resource.get(name) for name in wanted}
    return [f"the resource is {found}, and not {wanted}"] if found != wanted else []
