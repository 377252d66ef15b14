#!/usr/bin/env python3
"""What LiteLLM makes of the sidecar's own errors, by each way that it offers, with the newest LiteLLM and the oldest that is
supported: of a call that is refused in a session, of sessions that cannot be opened for a call, and of listings. Fails where that
differs from refusal_table.py, and where the table in docs/errors.md is not the one that follows from it; --write writes it
anew. Needs what `make surfaces` prepares.
"""

import argparse
import asyncio
import importlib.metadata
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "loopback"), os.environ["MCPAUTH_TEST_PROGRAMS"]]

import aiohttp
import kubernetes
from document import part_of, put_into
from ground import KEY, Ground, litellm_config, setting
from litellm_calls import Call, Failure, McpSession, base_url, browser, chat, responses
from processes import Broken, Processes
from refusal_table import RESULT, STATUS, differences, render
from ways import messages, server_id

DOCUMENT = TESTS.parent / "docs" / "errors.md"
BEGIN = "<!-- what follows is written by tests/surfaces/refusals.py -->"
END = "<!-- what tests/surfaces/refusals.py writes ends here -->"

REQUIRED = {"userContext": "Required", "cookiePassthrough": {"enabled": True, "cookieNames": ["session_id"]}}

# The same MCP server by its legacy transport, as another resource.
LEGACY = "legacy"

Way = Callable[[aiohttp.ClientSession, Call], Awaitable[str]]


async def mcp_call(session: aiohttp.ClientSession, call: Call) -> str:
    """Without a listing before it, as a client does that knows the tool."""
    client = await McpSession.open(session, call)
    result = await client.request("tools/call", {"name": f"{call.server}-{call.tool}", "arguments": {}})
    return json.dumps(result)


async def mcp_calls(session: aiohttp.ClientSession, call: Call) -> str:
    """Three in one session of LiteLLM's, which keeps one of its own to the server for them (1.110.2)."""
    client = await McpSession.open(session, call)
    params = {"name": f"{call.server}-{call.tool}", "arguments": {}}
    return json.dumps([await client.request("tools/call", params) for _ in range(3)])


async def rest_call(session: aiohttp.ClientSession, call: Call) -> str:
    # Of two servers with the same tool the oldest LiteLLM goes by the name alone.
    name = f"{call.server}-{call.tool}"
    body = {"server_id": await server_id(session, call), "name": name, "arguments": {}}
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


async def health(session: aiohttp.ClientSession, call: Call) -> str:
    """LiteLLM opens a session for it, and asks for nothing in it."""
    async with session.get(f"{base_url()}/v1/mcp/server/health", headers=call.request_headers) as answer:
        return f"{answer.status} {await answer.text()}"


WAYS: dict[str, Way] = {
    "a call at /mcp": mcp_call,
    "three calls in one session at /mcp": mcp_calls,
    "a call at /mcp-rest": rest_call,
    "a listing at /mcp": mcp_list,
    "a listing at /mcp-rest": rest_list,
    "a call over SSE at /mcp": lambda session, call: mcp_call(session, replace(call, server=LEGACY)),
    "a call over SSE at /mcp-rest": lambda session, call: rest_call(session, replace(call, server=LEGACY)),
    "health check": health,
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
    legacy = f"{servers['mcp'].removesuffix('/mcp')}/sse"
    second = kubernetes.resource(legacy, servers["token"], **REQUIRED)
    second["metadata"]["name"] = LEGACY
    second["spec"]["server"] |= {"name": LEGACY, "transport": "SSE"}
    kubernetes.apply(second)
    waiting = ["--namespace", kubernetes.NAMESPACE, "--for=condition=TokenIssued", "--timeout=60s"]
    kubernetes.kubectl("wait", f"msa/{LEGACY}", *waiting)
    config = litellm_config({"url": servers["mcp"]}, [ground.model()])
    config["mcp_servers"][LEGACY] = {"url": legacy, "transport": "sse", "allow_all_keys": True}
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table into docs/errors.md")
    options = parser.parse_args()
    # Whoever ends this program ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    table = render(importlib.metadata.version("litellm"), setting("MCPAUTH_SURFACES_OLD_VERSION"))
    if not options.write and part_of(DOCUMENT, BEGIN, END).strip() != table:
        # Before the minutes that it takes to measure.
        print(f"error: the table in {DOCUMENT} is not:\n{table}\nrun tests/surfaces/run --write", file=sys.stderr)
        return 1
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
    if options.write:
        put_into(DOCUMENT, BEGIN, END, table)
    print("refusals: LiteLLM makes of them what docs/errors.md says")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
