"""One tool call by one user through LiteLLM, in each of the ways that LiteLLM offers: what the tool answered comes
out, or a Failure that says in few words what went wrong.
"""

import json
import os
from dataclasses import dataclass, field

import aiohttp

MODEL = "stub"
PROTOCOL_VERSION = "2025-06-18"


class Failure(Exception):
    """A call that was not answered as it should be. The message is short and the same for the same cause."""


@dataclass
class Call:
    """What the user asks for, and what the browser sends along."""

    tool: str = "whoami"
    arguments: dict = field(default_factory=dict)
    server: str = "tools"
    cookies: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    # That a chat asks LiteLLM to send to the server.
    tool_headers: dict[str, str] = field(default_factory=dict)

    @property
    def request_headers(self) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {os.environ['LITELLM_API_KEY']}"} | self.headers
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return headers

    @property
    def prompt(self) -> str:
        return f"use {self.tool} {json.dumps(self.arguments)}"

    @property
    def offered_tools(self) -> list[dict]:
        place = f"litellm_proxy/mcp/{self.server}"
        tool = {"type": "mcp", "server_label": self.server, "server_url": place, "require_approval": "never"}
        return [tool | ({"headers": self.tool_headers} if self.tool_headers else {})]


def base_url() -> str:
    return os.environ["LITELLM_URL"]


def browser() -> aiohttp.ClientSession:
    """Keeps no cookies of its own: each call states its user's."""
    limits = aiohttp.ClientTimeout(total=120, sock_connect=10)
    return aiohttp.ClientSession(timeout=limits, cookie_jar=aiohttp.DummyCookieJar())


async def chat(session: aiohttp.ClientSession, call: Call) -> str:
    messages = [{"role": "user", "content": call.prompt}]
    body = {"model": MODEL, "messages": messages, "tools": call.offered_tools}
    answer = await post(session, "/v1/chat/completions", call, body)
    return answer["choices"][0]["message"]["content"]


async def chat_stream(session: aiohttp.ClientSession, call: Call) -> str:
    messages = [{"role": "user", "content": call.prompt}]
    body = {"model": MODEL, "messages": messages, "tools": call.offered_tools, "stream": True}
    text = ""
    async for event in events(session, "/v1/chat/completions", call, body):
        for choice in event.get("choices", []):
            text += choice["delta"].get("content") or ""
    return text


async def responses(session: aiohttp.ClientSession, call: Call) -> str:
    body = {"model": MODEL, "input": call.prompt, "tools": call.offered_tools}
    answer = await post(session, "/v1/responses", call, body)
    return last_text(answer["output"])


async def responses_stream(session: aiohttp.ClientSession, call: Call) -> str:
    body = {"model": MODEL, "input": call.prompt, "tools": call.offered_tools, "stream": True}
    output = []
    async for event in events(session, "/v1/responses", call, body):
        if event.get("type") == "response.completed":
            output = event["response"]["output"]
    return last_text(output)


def last_text(output: list[dict]) -> str:
    messages = [item for item in output if item["type"] == "message"]
    if not messages:
        raise Failure("the response holds no message")
    return "".join(part["text"] for part in messages[-1]["content"])


async def mcp(session: aiohttp.ClientSession, call: Call) -> str:
    client = await McpSession.open(session, call)
    names = await client.tools()
    name = next((name for name in names if name.endswith(call.tool)), None)
    if name is None:
        raise Failure(f"LiteLLM lists no tool {call.tool}")
    result = await client.request("tools/call", {"name": name, "arguments": call.arguments})
    return result["content"][0]["text"]


WAYS = {
    "chat": chat,
    "chat-stream": chat_stream,
    "responses": responses,
    "responses-stream": responses_stream,
    "mcp": mcp,
}


class McpSession:
    """An MCP client at LiteLLM's own MCP endpoint."""

    def __init__(self, session: aiohttp.ClientSession, call: Call, path: str) -> None:
        self.session = session
        self.call = call
        self.path = path
        self.identifier: str | None = None
        self.last_request = 0

    @classmethod
    async def open(cls, session: aiohttp.ClientSession, call: Call, path: str = "/mcp/") -> "McpSession":
        client = cls(session, call, path)
        who = {"name": "mcp-auth-tests", "version": "1"}
        await client.request(
            "initialize", {"protocolVersion": PROTOCOL_VERSION, "capabilities": {}, "clientInfo": who}
        )
        await client.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return client

    async def tools(self) -> list[str]:
        listed = await self.request("tools/list", {})
        return [tool["name"] for tool in listed["tools"]]

    async def request(self, method: str, params: dict) -> dict:
        self.last_request += 1
        message = {"jsonrpc": "2.0", "id": self.last_request, "method": method, "params": params}
        answer = json.loads(await self.send(message))
        if "error" in answer:
            raise Failure(f"{method}: {answer['error']['message'][:120]}")
        return answer["result"]

    async def send(self, message: dict) -> str:
        headers = self.call.request_headers | {
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": PROTOCOL_VERSION,
        }
        if self.identifier:
            headers["Mcp-Session-Id"] = self.identifier
        async with self.session.post(f"{base_url()}{self.path}", headers=headers, json=message) as answer:
            text = await answer.text()
            if answer.status >= 400:
                raise Failure(f"{message['method']}: status {answer.status}")
            self.identifier = answer.headers.get("mcp-session-id", self.identifier)
            data = [line.removeprefix("data:") for line in text.splitlines() if line.startswith("data:")]
            return data[-1] if data else text


async def post(session: aiohttp.ClientSession, path: str, call: Call, body: dict) -> dict:
    async with session.post(base_url() + path, headers=call.request_headers, json=body) as answer:
        if answer.status != 200:
            raise Failure(f"status {answer.status}: {(await answer.text())[:120]}")
        return await answer.json()


async def events(session: aiohttp.ClientSession, path: str, call: Call, body: dict):
    async with session.post(base_url() + path, headers=call.request_headers, json=body) as answer:
        if answer.status != 200:
            raise Failure(f"status {answer.status}: {(await answer.text())[:120]}")
        async for line in answer.content:
            data = line.decode().removeprefix("data:").strip() if line.startswith(b"data:") else ""
            if data and data != "[DONE]":
                yield json.loads(data)
