"""A protected MCP server on the official SDK: streamable HTTP at /mcp, legacy SSE at /sse.

It verifies the bearer token as a resource server must (RFC 9068): signature by the issuer's JWKS, issuer, audience,
expiry. Its tool `whoami` answers who called and which cookies and headers arrived. One JSON line for each request
goes to stdout, without tokens and cookie values; GET /test/requests answers the counts.

Environment: PORT, ISSUER (URL of the authorization server), RESOURCE (this server's own URL for /mcp) and, where SSE
is used, RESOURCE_SSE (its URL for /sse).
"""

import asyncio
import collections
import json
import os

import jwt
import uvicorn
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

ISSUER = os.environ["ISSUER"]
RESOURCES = [url for url in (os.environ["RESOURCE"], os.environ.get("RESOURCE_SSE")) if url]
# What must never arrive at an MCP server, whoever sent it.
FORBIDDEN = ("mcpauth-context", "x-litellm-api-key", "api-key", "proxy-authorization", "x-forwarded-for")
REPORTED = ("x-forwarded-user", "x-auth-request-email")

counts = collections.Counter()


class JwksVerifier:
    """Accepts JWT access tokens of the issuer for this server."""

    def __init__(self):
        self.keys = jwt.PyJWKClient(ISSUER.rstrip("/") + "/jwks", cache_keys=True)

    async def verify_token(self, token):
        try:
            key = await asyncio.to_thread(self.keys.get_signing_key_from_jwt, token)
            claims = jwt.decode(
                token, key.key, algorithms=["RS256"], issuer=ISSUER, audience=RESOURCES, options={"require": ["exp", "aud", "iss"]}
            )
        except jwt.PyJWTError as error:
            print(json.dumps({"event": "token refused", "reason": type(error).__name__}), flush=True)
            return None
        return AccessToken(
            token=token,
            client_id=claims["client_id"],
            scopes=claims.get("scope", "").split(),
            expires_at=claims["exp"],
            subject=claims.get("sub"),
            claims={"credential": claims.get("credential")},
        )


server = MCPServer(
    "protected",
    token_verifier=JwksVerifier(),
    auth=AuthSettings(issuer_url=ISSUER, resource_server_url=RESOURCES[0], required_scopes=[]),
)


@server.tool()
def whoami(context: Context) -> str:
    """Who calls: the verified service, and the cookies and headers of the user."""
    headers = context.request_context.request.headers
    token = get_access_token()
    cookies = [pair.split("=", 1) for field in headers.getlist("cookie") for pair in field.split("; ")]
    return json.dumps(
        {
            "service": token.client_id,
            "credential": token.claims["credential"],
            "cookies": dict(cookies),
            "cookie_fields": len(headers.getlist("cookie")),
            "headers": {name: headers[name] for name in REPORTED if name in headers},
            "leaked": [name for name in FORBIDDEN if name in headers],
        },
        sort_keys=True,
    )


@server.tool()
async def slow(seconds: float = 20) -> str:
    """Answers after a while."""
    await asyncio.sleep(min(seconds, 120))
    return f"slept {seconds}"


@server.tool()
def big(kilobytes: int = 1024) -> str:
    """Answers with much text."""
    return "x" * (min(kilobytes, 65536) * 1024)


class Journal:
    """Counts and prints each request's outcome."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["path"].startswith("/test/"):
            return await self.app(scope, receive, send)
        names = [name.decode() for name, _ in scope["headers"]]

        async def note(message):
            if message["type"] == "http.response.start":
                counts[str(message["status"])] += 1
                line = {"method": scope["method"], "path": scope["path"], "status": message["status"]}
                line["cookie"] = "cookie" in names
                print(json.dumps(line), flush=True)
            await send(message)

        await self.app(scope, receive, note)


async def requests(_request):
    return JSONResponse(dict(counts))


# Pods call the server by its Service's name; the SDK's check is for servers on a developer's machine.
security = TransportSecuritySettings(enable_dns_rebinding_protection=False)
streamable = server.streamable_http_app(transport_security=security)
legacy = server.sse_app(transport_security=security)
app = Starlette(
    routes=[Route("/test/requests", requests), *legacy.routes, Mount("/", streamable)],
    middleware=legacy.user_middleware,
    lifespan=lambda _app: server.session_manager.run(),
)

if __name__ == "__main__":
    host = os.environ.get("HOST", "0.0.0.0")
    uvicorn.run(Journal(app), host=host, port=int(os.environ.get("PORT", "8000")), log_level="warning")
