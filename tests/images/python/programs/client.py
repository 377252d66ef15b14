"""The user of the tests: calls tools through LiteLLM and prints a line of JSON. LITELLM_URL and LITELLM_API_KEY say
where LiteLLM is and with which key.

  tools      what LiteLLM lists at /mcp
  call       one tool call by one user
  load       calls at a constant rate, each by another user, and whether all were answered rightly
  stream     a chat of some seconds, to see whether it arrives in pieces
  direct     an MCP server called without LiteLLM, with a token of this client's own
  observed   what the MCP server has counted so far
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

import aiohttp

import direct
from litellm_calls import WAYS, Call, Failure, McpSession, base_url, browser


async def list_tools(options: argparse.Namespace) -> dict:
    async with browser() as session:
        client = await McpSession.open(session, call_of(options))
        return {"tools": await client.tools()}


async def call_tool(options: argparse.Namespace) -> dict:
    async with browser() as session:
        try:
            answer = await WAYS[options.through](session, call_of(options))
        except Failure as failure:
            return {"through": options.through, "user": options.user, "failure": str(failure)}
    try:
        answer = json.loads(answer)
    except ValueError:
        pass
    return {"through": options.through, "user": options.user, "answer": answer}


async def load(options: argparse.Namespace) -> dict:
    """Goes on until the file appears or the time is over; then every call still running is waited for."""
    failures, credentials = Counter(), Counter()
    failed_at = []
    began = time.monotonic()
    running: set[asyncio.Task] = set()
    sent = 0

    async def one_call(number: int) -> None:
        session_cookie = f"load-{number}"
        sent_at = time.time()

        def failed(why: str) -> None:
            failures[why] += 1
            failed_at.append(f"{clock(sent_at)} to {clock(time.time())}: {why}")

        call = Call(server=options.server, cookies={"session_id": session_cookie})
        text = None
        try:
            way = WAYS[options.through[number % len(options.through)]]
            text = await way(session, call)
            answer = json.loads(text)
            credentials[answer["credential"]] += 1
            if answer["cookies"].get("session_id") != session_cookie:
                failed("answered for another user")
        except Failure as failure:
            failed(str(failure))
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            failed(type(error).__name__)
        except (ValueError, KeyError, TypeError):
            # LiteLLM's own words instead of the tool's, such as that the MCP server did not answer.
            failed(f"the answer is not the tool's: {str(text)[:120]}")

    async with browser() as session:
        while time.monotonic() - began < options.seconds and not (options.until and options.until.exists()):
            task = asyncio.create_task(one_call(sent))
            running.add(task)
            task.add_done_callback(running.discard)
            sent += 1
            await asyncio.sleep(max(0, began + sent / options.rate - time.monotonic()))
        await asyncio.gather(*running)
    return {
        "sent": sent,
        "failed": failures.total(),
        "failures": dict(failures),
        "failed_at": failed_at,
        "credentials": dict(credentials),
        "seconds": round(time.monotonic() - began, 1),
    }


async def stream(options: argparse.Namespace) -> dict:
    """When the pieces arrived, in Unix seconds: a proxy that buffers lets all of them arrive at once, at the end."""
    messages = [{"role": "user", "content": f"stream {options.seconds}"}]
    body = {"model": "stub", "messages": messages, "stream": True}
    arrivals = []
    result = {}
    async with browser() as session:
        headers = call_of(options).request_headers
        try:
            async with session.post(f"{base_url()}/v1/chat/completions", headers=headers, json=body) as answer:
                result["status"] = answer.status
                async for line in answer.content:
                    if line.startswith(b"data:"):
                        arrivals.append(time.time())
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            result["failure"] = f"{type(error).__name__}: {error}"
    first, last = min(arrivals, default=None), max(arrivals, default=None)
    between = sum(first + 1 < at < last - 1 for at in arrivals)
    return result | {"pieces": len(arrivals), "first": first, "last": last, "between": between, "ended": time.time()}


def clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(seconds))


def call_of(options: argparse.Namespace) -> Call:
    return Call(
        tool=getattr(options, "tool", "whoami"),
        arguments=json.loads(getattr(options, "arguments", "{}")),
        server=getattr(options, "server", "tools"),
        cookies=dict(pair.split("=", 1) for pair in getattr(options, "cookie", [])),
        headers=dict(pair.split("=", 1) for pair in getattr(options, "header", [])),
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("tools")
    command.set_defaults(run=list_tools)

    command = commands.add_parser("call")
    command.add_argument("--through", choices=WAYS, default="chat")
    command.add_argument("--user", help="a name for the output only")
    command.add_argument("--cookie", action="append", default=[], metavar="NAME=VALUE")
    command.add_argument("--header", action="append", default=[], metavar="NAME=VALUE")
    command.add_argument("--tool", default="whoami")
    command.add_argument("--arguments", default="{}", help="of the tool, as JSON")
    command.add_argument("--server", default="tools")
    command.set_defaults(run=call_tool)

    command = commands.add_parser("load")
    command.add_argument("--through", choices=WAYS, nargs="+", default=["chat"], help="these by turns")
    command.add_argument("--server", default="tools")
    command.add_argument("--rate", type=float, default=5, help="calls a second")
    command.add_argument("--seconds", type=float, default=60)
    command.add_argument("--until", type=Path, help="stop when this file appears")
    command.set_defaults(run=load)

    command = commands.add_parser("stream")
    command.add_argument("--seconds", type=int, default=5)
    command.set_defaults(run=stream)

    command = commands.add_parser("direct")
    command.add_argument("--url", required=True, help="of the MCP server's endpoint")
    command.add_argument("--transport", choices=direct.TRANSPORTS, default="streamable-http")
    command.add_argument("--issuer", required=True)
    command.add_argument("--client-id", default="litellm")
    command.add_argument("--client-secret", default=os.environ.get("CLIENT_SECRET"))
    command.set_defaults(run=direct.call)

    command = commands.add_parser("observed")
    command.add_argument("--url", required=True, help="of the MCP server")
    command.set_defaults(run=direct.observed)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    try:
        result = asyncio.run(options.run(options))
    except Failure as failure:
        result = {"failure": str(failure)}
    except aiohttp.ClientError as error:
        result = {"failure": f"{type(error).__name__}: {error}"}
    print(json.dumps(result), flush=True)
    sys.exit("failure" in result or bool(result.get("failed")))


if __name__ == "__main__":
    main()
