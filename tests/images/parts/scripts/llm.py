"""A stand-in for an LLM behind OpenAI's API, since none is at hand.

It asks once for the offered tool whose name ends in `whoami` (or in `slow`, where the user's text holds that word),
and then answers with the tool's result. The user's text `stream N` makes a streamed answer take N seconds.
Serves /v1/chat/completions and /v1/responses. Environment: PORT.
"""

import asyncio
import json
import os
import time

from aiohttp import web


def text_of(content):
    if isinstance(content, str):
        return content
    return " ".join(part.get("text", "") for part in content or [] if isinstance(part, dict))


def chosen_tool(body, text):
    names = [(tool.get("function") or tool).get("name") or "" for tool in body.get("tools") or []]
    wanted = "slow" if "slow" in text.split() else "whoami"
    return next((name for name in names if name.endswith(wanted)), None)


def seconds_of(text):
    words = text.split()
    return min(int(words[words.index("stream") + 1]), 60) if "stream" in words else 0


async def chat_completions(request):
    body = await request.json()
    messages = body["messages"]
    text = " ".join(text_of(message.get("content")) for message in messages if message["role"] == "user")
    result = next((text_of(message["content"]) for message in messages if message["role"] == "tool"), None)
    tool = chosen_tool(body, text)
    if tool and result is None:
        call = {"id": "call_1", "type": "function", "function": {"name": tool, "arguments": "{}"}}
        message, finish = {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"
    else:
        message, finish = {"role": "assistant", "content": result or "done"}, "stop"
    base = {"id": "chat_1", "created": int(time.time()), "model": body["model"]}
    if body.get("stream"):
        return await stream(request, base, message, finish, seconds_of(text))
    await asyncio.sleep(seconds_of(text))
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    choices = [{"index": 0, "message": message, "finish_reason": finish}]
    return web.json_response({**base, "object": "chat.completion", "choices": choices, "usage": usage})


async def stream(request, base, message, finish, seconds):
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)

    async def send(delta, reason=None):
        chunk = {**base, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    for second in range(seconds):
        await send({"role": "assistant", "content": f"{second} "})
        await asyncio.sleep(1)
    if message.get("tool_calls"):
        message = {**message, "tool_calls": [{**message["tool_calls"][0], "index": 0}]}
    await send(message)
    await send({}, finish)
    await response.write(b"data: [DONE]\n\n")
    return response


async def responses(request):
    body = await request.json()
    items = body["input"] if isinstance(body["input"], list) else []
    result = next((text_of(item["output"]) for item in items if item.get("type") == "function_call_output"), None)
    tool = chosen_tool(body, "")
    if tool and result is None:
        call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": tool, "arguments": "{}"}
        output = [{**call, "status": "completed"}]
    else:
        content = [{"type": "output_text", "text": result or "done", "annotations": []}]
        output = [{"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}]
    return web.json_response(
        {
            "id": "resp_1",
            "object": "response",
            "created_at": int(time.time()),
            "model": body["model"],
            "status": "completed",
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
    )


app = web.Application(client_max_size=2**26)
app.router.add_post("/v1/chat/completions", chat_completions)
app.router.add_post("/v1/responses", responses)

if __name__ == "__main__":
    web.run_app(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8001")), print=None, access_log=None)
