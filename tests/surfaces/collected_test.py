"""The judge of what a collector got, judged: one thing after another is wrong, and it says so."""

import json
import unittest

from collected import judged

POD, UID = "litellm-0", "7"
LINE = {
    "schema": "mcpauth.dev/audit/v1",
    "time": "2026-11-29T17:50:00Z",
    "namespace": "loopback",
    "pod": POD,
    "server": "tools",
    "resource": "tools",
    "httpMethod": "POST",
    "method": "tools/call",
    "tool": "whoami",
    "traceId": "T",
    "request": "r",
    "outcome": "answered",
    "status": 200,
    "durationMs": 1,
    "serverMs": 1,
    "requestBytes": 1,
    "responseBytes": 1,
    "replayed": False,
}
OF_RECORD = {
    "mcpauth.server": "tools",
    "mcpauth.resource": "tools",
    "mcpauth.outcome": "answered",
    "mcp.method.name": "tools/call",
    "gen_ai.tool.name": "whoami",
    "http.response.status_code": "200",
}
RESOURCE = {
    "service.name": "mcp-auth-sidecar",
    "k8s.namespace.name": "loopback",
    "k8s.pod.name": POD,
    "k8s.pod.uid": UID,
}
SPAN = {"name": "tools/call whoami", "kind": 3, "traceId": "T", "spanId": "S", "startTimeUnixNano": "1", "endTimeUnixNano": "2"}


def said(line=None, record=None, span=None, more=None, resource=None, calls=1, spans=1) -> str:
    """What the judge says of one call whose parts differ in this."""
    attributes = OF_RECORD | {"mcpauth.request": "r", "http.request.method": "POST"} | (more or {})
    of_otlp = [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()]
    body = {"stringValue": json.dumps(LINE | (line or {}))}
    of_resource = RESOURCE | (resource or {})
    records = [({"body": body, "traceId": "T", "spanId": "S"} | (record or {}), OF_RECORD, of_resource)]
    its_span = (SPAN | {"attributes": of_otlp} | (span or {}), attributes, of_resource)
    return "; ".join(judged(records, [its_span] * spans, {POD: calls}, {POD: UID}))


class Judge(unittest.TestCase):
    def test_a_call_that_is_as_it_should_be_is_no_fault(self):
        self.assertEqual(said(), "")

    def test_each_thing_that_is_wrong_is_said(self):
        for wrong, expected in [
            ({"calls": 2}, "2 tool calls of litellm-0 arrived at the MCP server, and 1 records"),
            ({"calls": 0}, "0 tool calls of litellm-0"),
            ({"spans": 0}, "the call r has no span"),
            ({"line": {"secret": 1}}, "has ['secret']"),
            ({"line": {"tool": "other"}}, "the record's gen_ai.tool.name is whoami, and the audit line's tool other"),
            ({"resource": {"k8s.pod.uid": "8"}}, "the resource is"),
            ({"record": {"spanId": "X"}}, "is of another span"),
            ({"span": {"traceId": "X"}}, "the span's trace is X"),
            ({"span": {"kind": 1}}, "the span's name and kind are tools/call whoami, 1"),
            ({"span": {"endTimeUnixNano": "0"}}, "the span's end is before its start"),
            ({"more": {"mcpauth.outcome": "failed"}}, "the span's mcpauth.outcome is failed"),
            ({"more": {"user.id": "ada"}}, "the span's attributes name the user"),
        ]:
            with self.subTest(expected):
                self.assertIn(expected, said(**wrong))


if __name__ == "__main__":
    unittest.main()
