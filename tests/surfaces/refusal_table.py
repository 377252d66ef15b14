"""What LiteLLM makes of the sidecar's errors, as docs/errors.md tells it: each cell of that table beside the patterns that what was
found has to match, so that neither can say what the other does not.
"""

import re
from dataclasses import dataclass

# What the sidecar refuses: a call, whose session is open; and all, the opening of a session too.
RESULT, STATUS = "a call", "all"
MESSAGE = "McpServerAuth tools demands user context"
UNREACHABLE = "McpServerAuth tools: the MCP server cannot be reached"


def tool_error(reason: str, message: str) -> str:
    return f'"mcpauth\\.dev/error": ?{{[^}}]*"reason": ?"{reason}".*{message}.*"isError": ?true'


TOOL_ERROR = tool_error("user_context_required", MESSAGE)
OPENING_ERROR = tool_error("server_unreachable", UNREACHABLE)
CALLS_ERROR, OPENINGS_ERROR = (f'^(.*?{message}.*?"isError": true){{3}}' for message in (MESSAGE, UNREACHABLE))
LEGACY_ERROR = tool_error("user_context_required", MESSAGE.replace("tools", "legacy"))
NO_TOOLS = "^done$"
NO_MCP_TOOLS = "^failure: status 500"
SAME = "the same"


@dataclass(frozen=True)
class Cell:
    """What the document says, and by each way what has to be found."""

    text: str
    patterns: dict[str, str]


@dataclass(frozen=True)
class Row:
    """A way that is not among the patterns of the oldest LiteLLM is as with the newest."""

    refused: str
    how: str
    newest: Cell
    oldest: Cell


ROWS = [
    Row(
        "a call, by the result of a tool that failed",
        RESULT,
        Cell(
            'the tool\'s result is the message, as an error, with `_meta["mcpauth.dev/error"]` at `/mcp` and `/mcp-rest`',
            {
                "a call at /mcp": TOOL_ERROR,
                "three calls in one session at /mcp": CALLS_ERROR,
                "a call at /mcp-rest": f"^200 .*{TOOL_ERROR}",
                "chat": f"^{MESSAGE}",
                "responses": f"^{MESSAGE}",
                "messages": f"^{MESSAGE}",
            },
        ),
        Cell("the same, but for messages: 500, whatever the server says", {"messages": NO_MCP_TOOLS}),
    ),
    Row(
        "the session that is opened for a call",
        STATUS,
        Cell(
            "the same: the tool's result is the message",
            {
                "a call at /mcp": OPENING_ERROR,
                "three calls in one session at /mcp": OPENINGS_ERROR,
                "a call at /mcp-rest": f"^200 .*{OPENING_ERROR}",
            },
        ),
        Cell(SAME, {}),
    ),
    Row(
        "a call over legacy SSE, in its stream",
        RESULT,
        Cell(
            "the same: the tool's result is the message",
            {"a call over SSE at /mcp": LEGACY_ERROR, "a call over SSE at /mcp-rest": f"^200 .*{LEGACY_ERROR}"},
        ),
        Cell(SAME, {}),
    ),
    Row(
        "the stream of legacy SSE that is opened for a call",
        STATUS,
        Cell(
            "the tool's result is `HTTPStatusError` with status and URL; the message is not in it",
            {
                "a call over SSE at /mcp": "^(?!.*McpServerAuth).*HTTPStatusError: .*'502 Bad Gateway' for url .*\"isError\": true",
                "a call over SSE at /mcp-rest": "^(?!.*McpServerAuth)200 .*HTTPStatusError: .*'502 Bad Gateway' for url",
            },
        ),
        Cell(
            "the tool's result is `ExceptionGroup: unhandled errors in a TaskGroup`, without status and message",
            {
                "a call over SSE at /mcp": '^(?!.*(McpServerAuth|Bad Gateway)).*ExceptionGroup: unhandled errors in a TaskGroup.*"isError": true',
                "a call over SSE at /mcp-rest": '^(?!.*(McpServerAuth|Bad Gateway))200 .*"ExceptionGroup: unhandled errors in a TaskGroup.*"isError":true',
            },
        ),
    ),
    Row(
        "a listing at `/mcp`, of this server alone",
        STATUS,
        Cell(
            'the error "Every MCP server in scope failed to list tools"',
            {"a listing at /mcp": "^failure: tools/list: Every MCP server in scope failed to list tools"},
        ),
        Cell("no tools", {"a listing at /mcp": '^{"tools": \\[\\]}$'}),
    ),
    Row(
        "a listing at `/mcp-rest`",
        STATUS,
        Cell(
            "200 without tools, `error: partial_failure`, and the status in `server_outcomes`",
            {
                "a listing at /mcp-rest": '^200 .*"tools":\\[\\],"error":"partial_failure".*"server_outcomes":.*'
                '"tools":{"status":"upstream_error","http_status":502}'
            },
        ),
        Cell(
            '200 without tools, and "Successfully retrieved tools"',
            {"a listing at /mcp-rest": '^200 {"tools":\\[\\],"error":null,"message":"Successfully retrieved tools"'},
        ),
    ),
    Row(
        "a listing for chat, responses",
        STATUS,
        Cell("an answer without this server's tools, and no error", {"chat": NO_TOOLS, "responses": NO_TOOLS}),
        Cell(SAME, {}),
    ),
    Row(
        "a listing for messages",
        STATUS,
        Cell("an answer without this server's tools, and no error", {"messages": NO_TOOLS}),
        Cell("500, whatever the server says: it takes no MCP tools there", {"messages": NO_MCP_TOOLS}),
    ),
    Row(
        "the session of a health check, `/v1/mcp/server/health`",
        STATUS,
        Cell("`unhealthy`", {"health check": '^(?!.*"healthy")200 .*"status":"unhealthy".*"status":"unhealthy"'}),
        Cell(SAME, {}),
    ),
]
# Not in the table: where calls alone are refused, a listing comes, and the servers are healthy.
LISTED = {
    "a listing at /mcp": '"tools": \\[{',
    "a listing at /mcp-rest": '^200 .*"tools":\\[{',
    "health check": '^200 .*"status":"healthy".*"status":"healthy"',
}


def render(newest: str, oldest: str) -> str:
    lines = [f"| the sidecar refuses | LiteLLM {newest} | LiteLLM {oldest} |", "|---|---|---|"]
    lines += [f"| {row.refused} | {row.newest.text} | {row.oldest.text} |" for row in ROWS]
    return "\n".join(lines)


def expected(how: str, oldest: bool) -> dict[str, str]:
    """By each way the pattern of what has to be found."""
    patterns = dict(LISTED) if how == RESULT else {}
    for row in ROWS:
        if row.how == how:
            patterns |= row.newest.patterns | (row.oldest.patterns if oldest else {})
    return patterns


def differences(found: dict[str, dict[str, dict[str, str]]]) -> list[str]:
    """Of what was found by LiteLLM's version (the newest first), by how the sidecar refused, and by the way that was taken."""
    newest, told = next(iter(found)), []
    for version, by in found.items():
        for how, ways in by.items():
            patterns = expected(how, version != newest)
            for name in sorted(patterns.keys() | ways.keys()):
                if name not in patterns or name not in ways:
                    told.append(f"refused {how}, {name}: it is not both expected and measured")
                elif not re.search(patterns[name], ways[name], re.DOTALL):
                    told.append(f"LiteLLM {version}, refused {how}, {name}: {ways[name][:600]!r} is not {patterns[name]!r}")
    return told
