"""What a user of LiteLLM does; run in a pod by `kubectl exec`. Prints JSON.

client.py tools BASE [--server NAME]          names of the server's tools, as LiteLLM lists them
client.py call BASE --surface chat|responses|mcp [--cookie NAME=VALUE ...] [--header NAME=VALUE ...] [--tool TOOL]
                                              one tool call; prints {"status", "answer"}
client.py load BASE --seconds S --rate R [--surface ...] [--cookie ...]
                                              constant load, each call on a new connection; prints counts and failures
client.py stream BASE --seconds S             one streamed chat that takes S seconds; prints whether it ended whole

LITELLM_MASTER_KEY is the API key.
"""

import argparse
import asyncio
import collections
import json
import os
import time

import aiohttp


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["tools", "call", "load", "stream"])
    parser.add_argument("base")
    parser.add_argument("--server", default="tools")
    parser.add_argument("--surface", default="chat", choices=["chat", "responses", "mcp"])
    parser.add_argument("--cookie", action="append", default=[])
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--tool", default="whoami")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rate", type=float, default=10)
    return parser.parse_args()


class User:
    def __init__(self, session, options):
        self.session = session
        self.options = options
        self.headers = {"Authorization": "Bearer " + os.environ["LITELLM_MASTER_KEY"]}
        if options.cookie:
            self.headers["Cookie"] = "; ".join(options.cookie)
        self.headers.update(header.split("=", 1) for header in options.header)

    async def post(self, path, body, headers=None):
        url = self.options.base + path
        async with self.session.post(url, json=body, headers={**self.headers, **(headers or {})}) as response:
            return response.status, response.headers, await response.text()

    def mcp_tool(self):
        url = "litellm_proxy/mcp/" + self.options.server
        return {"type": "mcp", "server_label": "x", "server_url": url, "require_approval": "never"}

    async def chat(self):
        text = "slow please" if self.options.tool == "slow" else "who am I?"
        body = {"model": "stub", "messages": [{"role": "user", "content": text}], "tools": [self.mcp_tool()]}
        status, _, text = await self.post("/v1/chat/completions", body)
        return status, json.loads(text)["choices"][0]["message"]["content"] if status == 200 else text

    async def responses(self):
        body = {"model": "stub", "input": "who am I?", "tools": [self.mcp_tool()]}
        status, _, text = await self.post("/v1/responses", body)
        if status != 200:
            return status, text
        messages = [item for item in json.loads(text)["output"] if item["type"] == "message"]
        return status, messages[-1]["content"][0]["text"] if messages else text

    async def rpc(self, method, params, session_id=None, call_id=1):
        headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-06-18"}
        if session_id:
            headers["mcp-session-id"] = session_id
        body = {"jsonrpc": "2.0", "method": method, "params": params}
        if call_id:
            body["id"] = call_id
        status, answer_headers, text = await self.post(f"/{self.options.server}/mcp", body, headers)
        events = [line[5:] for line in text.splitlines() if line.startswith("data:") and line[5:].strip()]
        return status, answer_headers.get("mcp-session-id"), events[-1] if events else text

    async def open_mcp(self):
        client = {"name": "user", "version": "1"}
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client}
        status, session_id, text = await self.rpc("initialize", params)
        if status != 200:
            raise RuntimeError(f"initialize: {status} {text[:300]}")
        await self.rpc("notifications/initialized", {}, session_id, None)
        status, _, text = await self.rpc("tools/list", {}, session_id, 2)
        if status != 200 or "result" not in json.loads(text):
            raise RuntimeError(f"tools/list: {status} {text[:300]}")
        return session_id, [tool["name"] for tool in json.loads(text)["result"]["tools"]]

    async def tools(self):
        return (await self.open_mcp())[1]

    async def mcp(self):
        session_id, names = await self.open_mcp()
        name = next((name for name in names if name.endswith(self.options.tool)), None)
        if name is None:
            return 404, f"no tool {self.options.tool} among {names}"
        status, _, text = await self.rpc("tools/call", {"name": name, "arguments": {}}, session_id, 3)
        try:
            return status, json.loads(text)["result"]["content"][0]["text"]
        except (KeyError, ValueError, IndexError):
            return status, text

    async def call(self):
        return await getattr(self, self.options.surface)()


def decoded(answer):
    try:
        return json.loads(answer)
    except ValueError:
        return answer


async def load(options, timeout):
    """Failed is what is not 200, or 200 without the service's identity in the answer."""
    started = time.monotonic()
    failures, latencies, tasks = collections.Counter(), [], set()

    async def one():
        before = time.monotonic()
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session:
                status, answer = await User(session, options).call()
            if status != 200 or "service" not in decoded(answer):
                failures[f"{status} {str(answer)[:200]}"] += 1
        except Exception as error:  # every kind of failure is counted
            failures[f"{type(error).__name__} {error}"[:200]] += 1
        latencies.append(time.monotonic() - before)

    sent = 0
    while time.monotonic() - started < options.seconds:
        task = asyncio.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        sent += 1
        await asyncio.sleep(max(0, started + sent / options.rate - time.monotonic()))
    if tasks:
        await asyncio.wait(tasks, timeout=120)
    latencies.sort()
    percentile = lambda share: round(1000 * latencies[int(len(latencies) * share)]) if latencies else None
    return {
        "sent": sent,
        "failed": sum(failures.values()) + len(tasks),
        "p50_ms": percentile(0.5),
        "p99_ms": percentile(0.99),
        "failures": dict(failures),
    }


async def stream(user, options):
    body = {"model": "stub", "stream": True, "messages": [{"role": "user", "content": f"stream {int(options.seconds)}"}]}
    lines = []
    async with user.session.post(options.base + "/v1/chat/completions", headers=user.headers, json=body) as response:
        print(json.dumps({"status": response.status}), flush=True)
        async for line in response.content:
            if line.strip():
                lines.append(line.strip())
    return {"whole": bool(lines) and lines[-1] == b"data: [DONE]", "lines": len(lines)}


async def main():
    options = arguments()
    timeout = aiohttp.ClientTimeout(total=120, sock_connect=10)
    if options.command == "load":
        return await load(options, timeout)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        user = User(session, options)
        if options.command == "tools":
            return await user.tools()
        if options.command == "stream":
            return await stream(user, options)
        status, answer = await user.call()
        return {"status": status, "answer": decoded(answer)}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main()), sort_keys=True))
