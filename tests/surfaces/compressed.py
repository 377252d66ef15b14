"""Compressed bodies of requests: LiteLLM decides about them behind the sidecar as it does without it, but for those that would set
headers for a protected MCP server.
"""

import gzip
import json

import aiohttp
from ground import KEY
from litellm_calls import MODEL
from backports import zstd

# The first LiteLLM that decodes any.
DECODES = (1, 110)
ENCODERS = {"gzip": gzip.compress, "zstd": zstd.compress}
FORGED = {"tools": [{"type": "mcp", "server_url": "litellm_proxy", "headers": {"mcpauth-context": "forged"}}]}


async def faults(version: str, through: str, direct: str) -> list[str]:
    """`through` is the sidecar's URL, `direct` LiteLLM's own."""
    decodes = tuple(map(int, version.split(".")[:2])) >= DECODES
    found = []
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        for coding in ENCODERS:
            statuses = [await status(session, url, coding, chat) for url in (through, direct)]
            if statuses[0] != statuses[1]:
                found.append(f"{coding}: {statuses[0]} through the sidecar and {statuses[1]} without it")
            if decodes != (statuses[1] == 200):
                found.append(f"{coding}: LiteLLM itself answers {statuses[1]}")
            forged = await status(session, through, coding, chat | FORGED)
            if forged != 400:
                found.append(f"{coding}: a body that names the context header is answered {forged}")
    return found


async def status(session: aiohttp.ClientSession, url: str, coding: str, body: dict) -> int:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", "Content-Encoding": coding}
    data = ENCODERS[coding](json.dumps(body).encode())
    async with session.post(f"{url}/v1/chat/completions", headers=headers, data=data) as answer:
        await answer.read()
        return answer.status
