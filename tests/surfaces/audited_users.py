"""Users in the audit logs of two LiteLLMs with sidecars: tokens of a real authorization server, verified by its keys, and
forged ones; fingerprints that are the same on both pods.
"""

import asyncio
import base64
import json
import os
import time
import urllib.request
from pathlib import Path

import kubernetes
from ground import KEY
from litellm_calls import Call, McpSession, browser
from processes import LIMIT, Broken

HEADER = "X-Id-Token"
AUDIENCE = "urn:litellm"


def spec(issuer: str) -> dict:
    """`spec.audit` of the resource."""
    jwks = {"issuer": issuer, "audience": AUDIENCE, "allowInsecureHttp": True}
    return {"user": {"header": HEADER, "claim": "sub", "jwks": jwks}}


def faults(servers: dict[str, str], urls: dict[str, str], logs: dict[str, Path]) -> list[str]:
    """What is not as it should be. `urls` and `logs` are by LiteLLM."""
    token = user_token(servers["admin"], "ada")
    header, claims, signature = token.split(".")
    eve = json.loads(decoded(claims)) | {"sub": "eve"}
    forged = ".".join([header, encoded(json.dumps(eve)), signature])
    unsigned = ".".join([encoded('{"alg":"none"}'), encoded(json.dumps(eve)), ""])
    expected = {
        "genuine": (token, {"id": "ada", "verified": True}),
        "forged": (forged, {"problem": "SignatureInvalid"}),
        "unsigned": (unsigned, {"problem": "AlgorithmUnsupported"}),
    }
    found, keys = [], set()
    for name, url in urls.items():
        for kind, (value, wanted) in expected.items():
            asyncio.run(call(url, value))
            line = last_call(logs[name], kind)
            keys.add(line.get("clientKey"))
            user = line.get("user", {})
            if {field: user.get(field) for field in wanted} != wanted or ("id" in user) != ("id" in wanted):
                found.append(f"{name}: a {kind} token is recorded as {user}")
        text = logs[name].read_text()
        for secret in (token, forged, KEY):
            if secret in text:
                found.append(f"{name}: the audit log holds a token or key")
    if len(keys) != 1 or None in keys:
        found.append(f"one key has the fingerprints {sorted(map(str, keys))} in the audit logs of {len(urls)} pods")
    return found


async def call(url: str, token: str) -> None:
    os.environ |= {"LITELLM_URL": url, "LITELLM_API_KEY": KEY}
    async with browser() as session:
        client = await McpSession.open(session, Call(headers={HEADER: token}), "/mcp/")
        name = next(name for name in await client.tools() if name.endswith("whoami"))
        await client.request("tools/call", {"name": name, "arguments": {}})


def last_call(log: Path, kind: str) -> dict:
    """The line of the tool call that has just been made: lines come in order, and one at a time is under way."""
    end = time.monotonic() + LIMIT
    marked = log.with_suffix(".seen")
    seen = int(marked.read_text()) if marked.exists() else 0
    while time.monotonic() < end:
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        calls = [line for line in lines if line.get("method") == "tools/call"]
        if len(calls) > seen:
            marked.write_text(str(len(calls)))
            return calls[-1]
        time.sleep(0.1)
    raise Broken(f"the call with a {kind} token is not in {log}")


def user_token(admin: str, user: str) -> str:
    body = json.dumps({"client": kubernetes.CLIENT, "resource": AUDIENCE}).encode()
    request = urllib.request.Request(f"{admin}/users/{user}/token", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=LIMIT) as answer:
        return json.load(answer)["token"]


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
