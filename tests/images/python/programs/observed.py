"""Wraps an ASGI application and keeps a record of its requests: a JSON line for each on standard output, and totals
at /observed. No token and no cookie value is in either.
"""

import json
import time
from collections import Counter

QUIET_PATHS = {"/healthz", "/observed"}


class Observed:
    def __init__(self, application) -> None:
        self.application = application
        self.totals = Counter()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.application(scope, receive, send)
        if scope["path"] == "/healthz":
            return await answer_json(send, {"status": "ok"})
        if scope["path"] == "/observed":
            return await answer_json(send, dict(self.totals))

        body = await whole_body(receive) if scope["method"] == "POST" else None
        await self.application(scope, replay(body, receive), self.recording(scope, body, send))

    def recording(self, scope, body, send):
        async def send_and_record(message) -> None:
            if message["type"] == "http.response.start":
                self.record(scope, body, message["status"])
            await send(message)

        return send_and_record

    def record(self, scope, body, status) -> None:
        method = rpc_method(body)
        user = scope.get("user")
        token = getattr(user, "access_token", None)
        self.totals["requests"] += 1
        self.totals[f"status_{status}"] += 1
        if method and status < 400:
            self.totals[method] += 1
        names = {name.decode("latin-1") for name, _ in scope["headers"]}
        line = {
            "time": round(time.time(), 3),
            "method": scope["method"],
            "path": scope["path"],
            "rpc": method,
            "status": status,
            "client": token and token.client_id,
            "credential": token and token.claims.get("credential"),
            "with_cookie": "cookie" in names,
        }
        print(json.dumps(line), flush=True)


async def whole_body(receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


def replay(body, receive):
    """Gives the application the body that was read already, and then what comes after it: the disconnect."""
    pending = [] if body is None else [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again():
        return pending.pop() if pending else await receive()

    return receive_again


def rpc_method(body) -> str | None:
    try:
        return json.loads(body)["method"]
    except (TypeError, ValueError, KeyError):
        return None


async def answer_json(send, content) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})
