"""An MCP server called without LiteLLM, with the official SDK as the client and a token of its own."""

import argparse
import json
from urllib.parse import urlsplit

import aiohttp

from litellm_calls import Failure

TRANSPORTS = ["streamable-http", "sse"]


async def call(options: argparse.Namespace) -> dict:
    # The SDK takes a second to import, and no other command of the client needs it.
    import httpx2
    from mcp import Client
    from mcp.client.sse import sse_client
    from mcp.client.streamable_http import streamable_http_client

    token = await fetch_token(options.issuer, options.client_id, options.client_secret, options.url)
    headers = {"Authorization": f"Bearer {token}"}
    if options.transport == "sse":
        transport = sse_client(options.url, headers=headers)
    else:
        transport = streamable_http_client(options.url, http_client=httpx2.AsyncClient(headers=headers))
    async with Client(transport) as client:
        listed = await client.list_tools()
        result = await client.call_tool("whoami", {})
        answer = json.loads(result.content[0].text)
        return {"tools": [tool.name for tool in listed.tools], "answer": answer}


async def fetch_token(issuer: str, client_id: str, secret: str, resource: str) -> str:
    form = {"grant_type": "client_credentials", "resource": resource}
    async with aiohttp.ClientSession(auth=aiohttp.BasicAuth(client_id, secret)) as session:
        async with session.post(f"{issuer}/token", data=form) as answer:
            body = await answer.json()
            if answer.status != 200:
                raise Failure(f"the token was refused: {body['error']}")
            return body["access_token"]


async def observed(options: argparse.Namespace) -> dict:
    """What the MCP server has counted so far."""
    origin = urlsplit(options.url)
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{origin.scheme}://{origin.netloc}/observed") as answer:
            return await answer.json()
