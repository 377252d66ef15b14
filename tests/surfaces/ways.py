"""Each way that LiteLLM offers to reach an MCP server's tools, as one user takes it."""

import functools
import json

import aiohttp

from litellm_calls import (
    Call,
    Failure,
    McpSession,
    base_url,
    chat,
    chat_stream,
    events,
    post,
    responses,
    responses_stream,
)

MCP_PATHS = ["/mcp/", "/mcp/tools", "/tools/mcp"]


async def mcp(path: str, session: aiohttp.ClientSession, call: Call) -> str:
    client = await McpSession.open(session, call, path)
    name = next(name for name in await client.tools() if name.endswith(call.tool))
    result = await client.request("tools/call", {"name": name, "arguments": call.arguments})
    return result["content"][0]["text"]


async def rest(session: aiohttp.ClientSession, call: Call) -> str:
    listed = f"{base_url()}/mcp-rest/tools/list"
    async with session.get(listed, headers=call.request_headers) as answer:
        if answer.status != 200:
            raise Failure(f"status {answer.status}")
        tools = (await answer.json())["tools"]
    tool = next((tool for tool in tools if tool["name"].endswith(call.tool)), None)
    if tool is None:
        raise Failure(f"LiteLLM lists no tool {call.tool}")
    body = {"server_id": await server_id(session, call), "name": tool["name"], "arguments": call.arguments}
    async with session.post(f"{base_url()}/mcp-rest/tools/call", headers=call.request_headers, json=body) as answer:
        if answer.status != 200:
            raise Failure(f"status {answer.status}: {(await answer.text())[:120]}")
        said = await answer.json()
    # The older one answers with the content alone.
    return (said["content"] if isinstance(said, dict) else said)[0]["text"]


async def server_id(session: aiohttp.ClientSession, call: Call) -> str:
    async with session.get(f"{base_url()}/v1/mcp/server", headers=call.request_headers) as answer:
        servers = await answer.json() if answer.status == 200 else []
    names = ("server_name", "alias")
    found = (server["server_id"] for server in servers if call.server in (server.get(name) for name in names))
    return next(found, call.server)


async def messages(session: aiohttp.ClientSession, call: Call) -> str:
    answer = await post(session, "/v1/messages", call, message_body(call))
    return "".join(part.get("text", "") for part in answer["content"])


async def messages_stream(session: aiohttp.ClientSession, call: Call) -> str:
    text = ""
    async for event in events(session, "/v1/messages", call, message_body(call) | {"stream": True}):
        text += event.get("delta", {}).get("text") or ""
    return text


def message_body(call: Call) -> dict:
    said = [{"role": "user", "content": call.prompt}]
    return {"model": "stub", "max_tokens": 100, "messages": said, "tools": call.offered_tools}


WAYS = {
    **{path: functools.partial(mcp, path) for path in MCP_PATHS},
    "/mcp-rest/tools/list, .../call": rest,
    "/v1/chat/completions": chat,
    "/v1/chat/completions, streamed": chat_stream,
    "/v1/responses": responses,
    "/v1/responses, streamed": responses_stream,
    "/v1/messages": messages,
    "/v1/messages, streamed": messages_stream,
}


async def take(name: str, session: aiohttp.ClientSession, call: Call) -> str | None:
    """Whom the tool served, as it says itself; none where the tool was not called."""
    text = await WAYS[name](session, call)
    try:
        return json.loads(text)["cookies"].get("session_id")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
