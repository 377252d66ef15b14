#!/usr/bin/env python3
"""What LiteLLM makes of the sidecar's own errors, by each way that it offers, with the newest LiteLLM and the oldest that is
supported: of a call that is answered by the result of a tool that failed, and of sessions and listings that are answered by a
status. Fails where that differs from the table in docs/errors.md. Needs what `make surfaces` prepares.
"""

import asyncio
import importlib.metadata
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "loopback"), os.environ["MCPAUTH_TEST_PROGRAMS"]]

import aiohttp
import kubernetes
from ground import KEY, Ground, litellm_config, setting
from litellm_calls import Call, Failure, McpSession, base_url, browser, chat, responses
from processes import Broken, Processes
from ways import messages, server_id

# How the sidecar refuses: a call with the result of a tool that failed, whose session is open; and all, the opening of a session
# too, with a status.
RESULT, STATUS = "by a result", "by a status"
REQUIRED = {"userContext": "Required", "cookiePassthrough": {"enabled": True, "cookieNames": ["session_id"]}}

Way = Callable[[aiohttp.ClientSession, Call], Awaitable[str]]


async def mcp_call(session: aiohttp.ClientSession, call: Call) -> str:
    """Without a listing before it, as a client does that knows the tool."""
    client = await McpSession.open(session, call)
    result = await client.request("tools/call", {"name": f"{call.server}-{call.tool}", "arguments": {}})
    return json.dumps(result)


async def rest_call(session: aiohttp.ClientSession, call: Call) -> str:
    body = {"server_id": await server_id(session, call), "name": call.tool, "arguments": {}}
    url = f"{base_url()}/mcp-rest/tools/call"
    async with session.post(url, headers=call.request_headers, json=body) as answer:
        return f"{answer.status} {await answer.text()}"


async def mcp_list(session: aiohttp.ClientSession, call: Call) -> str:
    client = await McpSession.open(session, call)
    return json.dumps(await client.request("tools/list", {}))


async def rest_list(session: aiohttp.ClientSession, call: Call) -> str:
    url = f"{base_url()}/mcp-rest/tools/list"
    async with session.get(url, headers=call.request_headers) as answer:
        return f"{answer.status} {await answer.text()}"


WAYS: dict[str, Way] = {
    "a call at /mcp": mcp_call,
    "a call at /mcp-rest": rest_call,
    "a listing at /mcp": mcp_list,
    "a listing at /mcp-rest": rest_list,
    "chat": chat,
    "responses": responses,
    "messages": messages,
}


async def what_comes(way: Way, session: aiohttp.ClientSession) -> str:
    try:
        return await way(session, Call())
    except Failure as failure:
        return f"failure: {failure}"


async def all_ways() -> dict[str, str]:
    async with browser() as session:
        return {name: await what_comes(way, session) for name, way in WAYS.items()}


def measure(ground: Ground) -> dict[str, dict[str, dict[str, str]]]:
    servers = ground.servers("refusals")
    old = setting("MCPAUTH_SURFACES_OLD_VERSION")
    versions = {importlib.metadata.version("litellm"): None, old: setting("MCPAUTH_SURFACES_OLD_PACKAGES")}
    pods = {version: f"refusals-{number}" for number, version in enumerate(versions)}
    kubernetes.prepare(servers, list(pods.values()), **REQUIRED)
    config = litellm_config({"url": servers["mcp"]}, [ground.model()])
    urls = {version: ground.injected_litellm(pods[version], config, where) for version, where in versions.items()}
    for version, url in urls.items():
        ground.processes.until_up(pods[version], f"{url}/health/readiness")
    found = {version: {RESULT: taken(url)} for version, url in urls.items()}
    ground.processes.stop("refusals-mcp")
    for version, url in urls.items():
        found[version][STATUS] = taken(url)
    return found


def taken(url: str) -> dict[str, str]:
    os.environ |= {"LITELLM_URL": url, "LITELLM_API_KEY": KEY}
    return asyncio.run(all_ways())


# By how the sidecar refuses, and for each way what LiteLLM makes of it, as regular expressions that have to be found: with the
# newest LiteLLM, and where it is different with the oldest.
MESSAGE = "McpServerAuth tools demands user context"
NO_TOOLS = "^done$"
NO_MCP_TOOLS = "^failure: status 500"
EXPECTED: dict[str, dict[str, tuple[str, str | None]]] = {
    RESULT: {
        "a call at /mcp": (f'"reason": "user_context_required".*{MESSAGE}.*"isError": true', None),
        "a call at /mcp-rest": (f'^200 .*"reason":"user_context_required".*{MESSAGE}.*"isError":true', None),
        "a listing at /mcp": ('"tools": \\[{', None),
        "a listing at /mcp-rest": ('^200 .*"tools":\\[{', None),
        "chat": (f"^{MESSAGE}", None),
        "responses": (f"^{MESSAGE}", None),
        "messages": (f"^{MESSAGE}", NO_MCP_TOOLS),
    },
    STATUS: {
        "a call at /mcp": ("HTTPStatusError: .*'502 Bad Gateway' for url .*\"isError\": true", 'ExceptionGroup: [^"]*".*"isError": true'),
        "a call at /mcp-rest": ("^200 .*HTTPStatusError: .*'502 Bad Gateway' for url", '^200 .*"ExceptionGroup: [^"]*".*"isError":true'),
        "a listing at /mcp": ("^failure: tools/list: Every MCP server in scope failed to list tools", '^{"tools": \\[\\]}$'),
        "a listing at /mcp-rest": (
            '^200 .*"tools":\\[\\],"error":"partial_failure".*"tools":{"status":"upstream_error","http_status":502}',
            '^200 {"tools":\\[\\],"error":null',
        ),
        "chat": (NO_TOOLS, None),
        "responses": (NO_TOOLS, None),
        "messages": (NO_TOOLS, NO_MCP_TOOLS),
    },
}


def differences(found: dict[str, dict[str, dict[str, str]]]) -> list[str]:
    newest, told = next(iter(found)), []
    for version, by in found.items():
        for how, ways in by.items():
            for name, text in ways.items():
                expected, of_oldest = EXPECTED[how][name]
                if version != newest:
                    expected = of_oldest or expected
                if not re.search(expected, text, re.DOTALL):
                    told.append(f"LiteLLM {version}, refused {how}, {name}: {text[:600]!r} is not {expected!r}")
    return told


def main() -> int:
    # Whoever ends this program ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="mcp-auth-refusals."))
    try:
        with Processes(folder) as processes:
            told = differences(measure(Ground(processes)))
    except Broken as error:
        told = [str(error)]
    if told:
        print("error: docs/errors.md says otherwise what LiteLLM makes of refusals:", *told, sep="\n   - ", file=sys.stderr)
        print(f"   the logs are in {folder}", file=sys.stderr)
        return 1
    print("refusals: LiteLLM makes of them what docs/errors.md says")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
