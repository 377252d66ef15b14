"""A stand-in for an LLM provider: OpenAI's chat completions and responses, streamed or not.

The last message of the user decides: `use TOOL` or `use TOOL {"argument": 1}` asks once for the tool whose name ends
so, and the tool's result is the answer; `stream SECONDS` answers with a word a second; anything else with `done`.
"""

import argparse
import asyncio
import json
import re
import time

from aiohttp import web

ASKS_FOR_TOOL = re.compile(r"\buse (\w+)(?:\s+(\{.*\}))?", re.DOTALL)
ASKS_FOR_WORDS = re.compile(r"\bstream (\d+)")


def text_of(content) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part.get("text", "") for part in content or [] if isinstance(part, dict))


def wanted_tool(request: dict, user_text: str) -> dict | None:
    """The tool call to ask for, if the user wants one and the request offers it."""
    wanted = ASKS_FOR_TOOL.search(user_text)
    if not wanted:
        return None
    offered = [(tool.get("function") or tool).get("name") or "" for tool in request.get("tools") or []]
    name = next((name for name in offered if name.endswith(wanted[1])), None)
    return name and {"name": name, "arguments": wanted[2] or "{}"}


def words(user_text: str, answer: str) -> list[str]:
    wanted = ASKS_FOR_WORDS.search(user_text)
    return [f"{number} " for number in range(int(wanted[1]))] if wanted else [answer]


async def paced(pieces: list[str]):
    """One piece a second, the first at once."""
    for position, piece in enumerate(pieces):
        if position:
            await asyncio.sleep(1)
        yield piece


async def chat(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    messages = body["messages"]
    user_text = " ".join(text_of(message.get("content")) for message in messages if message["role"] == "user")
    results = [text_of(message.get("content")) for message in messages if message["role"] == "tool"]
    tool = None if results else wanted_tool(body, user_text)
    pieces = words(user_text, results[-1] if results else "done")
    if body.get("stream"):
        return await stream(request, chat_chunks(body["model"], tool, pieces))
    message = {"role": "assistant", "content": None if tool else "".join([piece async for piece in paced(pieces)])}
    if tool:
        message["tool_calls"] = [{"id": "call_1", "type": "function", "function": tool}]
    completion = {
        "id": "chat_1",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if tool else "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
    return web.json_response(completion)


async def chat_chunks(model: str, tool: dict | None, pieces: list[str]):
    def chunk(delta: dict, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        head = {"id": "chat_1", "object": "chat.completion.chunk", "created": int(time.time()), "model": model}
        return f"data: {json.dumps(head | {'choices': [choice]})}\n\n".encode()

    if tool:
        call = {"index": 0, "id": "call_1", "type": "function", "function": tool}
        yield chunk({"role": "assistant", "content": None, "tool_calls": [call]})
    else:
        async for piece in paced(pieces):
            yield chunk({"role": "assistant", "content": piece})
    yield chunk({}, "tool_calls" if tool else "stop")
    yield b"data: [DONE]\n\n"


async def responses(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    items = [{"role": "user", "content": body["input"]}] if isinstance(body["input"], str) else body["input"]
    user_text = " ".join(text_of(item.get("content")) for item in items if item.get("role") == "user")
    results = [text_of(item["output"]) for item in items if item.get("type") == "function_call_output"]
    tool = None if results else wanted_tool(body, user_text)
    pieces = words(user_text, results[-1] if results else "done")
    if body.get("stream"):
        return await stream(request, response_events(body["model"], tool, pieces))
    text = "".join([piece async for piece in paced(pieces)])
    return web.json_response(response(body["model"], "completed", [output_item(tool, text)]))


def output_item(tool: dict | None, text: str) -> dict:
    if tool:
        return {"type": "function_call", "id": "item_1", "call_id": "call_1", "status": "completed"} | tool
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": "item_1", "role": "assistant", "status": "completed", "content": content}


def response(model: str, status: str, output: list[dict]) -> dict:
    return {
        "id": "response_1",
        "object": "response",
        "created_at": int(time.time()),
        "model": model,
        "status": status,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "max_output_tokens": None,
        "previous_response_id": None,
    }


async def response_events(model: str, tool: dict | None, pieces: list[str]):
    position = 0

    def event(kind: str, content: dict) -> bytes:
        nonlocal position
        position += 1
        return f"event: {kind}\ndata: {json.dumps({'type': kind, 'sequence_number': position} | content)}\n\n".encode()

    place = {"output_index": 0, "item_id": "item_1"}
    yield event("response.created", {"response": response(model, "in_progress", [])})
    if tool:
        finished = output_item(tool, "")
        begun = finished | {"status": "in_progress", "arguments": ""}
        yield event("response.output_item.added", {"output_index": 0, "item": begun})
        yield event("response.function_call_arguments.delta", place | {"delta": tool["arguments"]})
        yield event("response.function_call_arguments.done", place | {"arguments": tool["arguments"]})
    else:
        begun = {"type": "message", "id": "item_1", "role": "assistant", "status": "in_progress", "content": []}
        part = {"type": "output_text", "text": "", "annotations": []}
        text = ""
        yield event("response.output_item.added", {"output_index": 0, "item": begun})
        yield event("response.content_part.added", place | {"content_index": 0, "part": part})
        async for piece in paced(pieces):
            text += piece
            yield event("response.output_text.delta", place | {"content_index": 0, "delta": piece})
        yield event("response.output_text.done", place | {"content_index": 0, "text": text})
        yield event("response.content_part.done", place | {"content_index": 0, "part": part | {"text": text}})
        finished = output_item(None, text)
    yield event("response.output_item.done", {"output_index": 0, "item": finished})
    yield event("response.completed", {"response": response(model, "completed", [finished])})


async def stream(request: web.Request, pieces) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await answer.prepare(request)
    async for piece in pieces:
        await answer.write(piece)
    return answer


async def healthy(_request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8001)
    options = parser.parse_args()
    # Requests with many tools or large tool results are larger than aiohttp's one megabyte.
    application = web.Application(client_max_size=64 * 1024 * 1024)
    application.router.add_post("/v1/chat/completions", chat)
    application.router.add_post("/v1/responses", responses)
    application.router.add_get("/healthz", healthy)
    web.run_app(application, host=options.host, port=options.port, print=None, access_log=None)


if __name__ == "__main__":
    main()
