"""A protected MCP server on the official SDK: streamable HTTP at /mcp and the legacy transport at /sse.

Each of the two is a resource of its own (RFC 8707) and takes only access tokens that were issued for its URL. The
tools say what arrived, so that a test can tell who called, for which user, and what should have stayed away.
"""

import argparse
import asyncio
import json
import ssl
from urllib.parse import urlsplit

import uvicorn
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.transport_security import TransportSecuritySettings

from bearer import JwtVerifier
from observed import Observed

# Credentials that are somebody else's business, and the sidecar's own header.
NEVER_TO_ARRIVE = ["api-key", "mcpauth-context", "proxy-authorization", "x-api-key", "x-litellm-api-key"]
# How front ends state the user.
IDENTITY_HEADERS = ["x-auth-request-email", "x-auth-request-user", "x-forwarded-email", "x-forwarded-user"]


async def whoami(ctx: Context) -> str:
    """Says as whom and for whom this call arrived."""
    request = ctx.request_context.request
    claims = request.scope["user"].access_token.claims
    leaked = [name for name in NEVER_TO_ARRIVE if name in request.headers]
    leaked += [name for name in ("authorization", "cookie") if len(request.headers.getlist(name)) > 1]
    arrived = {
        "service": claims["sub"],
        "credential": claims.get("credential"),
        "cookies": cookies(request.headers.get("cookie", "")),
        "headers": {name: request.headers[name] for name in IDENTITY_HEADERS if name in request.headers},
        "header_names": sorted(set(request.headers.keys())),
        "leaked": leaked,
    }
    return json.dumps(arrived)


async def slow(ctx: Context, seconds: float = 5) -> str:
    """Takes this long, and reports progress once a second."""
    for second in range(int(seconds)):
        await ctx.report_progress(second, seconds)
        await asyncio.sleep(1)
    await asyncio.sleep(seconds % 1)
    return f"took {seconds} s"


async def big(kilobytes: int = 1024) -> str:
    """Answers with this much text."""
    return "x" * (kilobytes * 1024)


def cookies(header: str) -> dict[str, str]:
    """Names and values byte for byte as they arrived, without any decoding."""
    pairs = (pair.strip().split("=", 1) for pair in header.split(";") if "=" in pair)
    return {name: value for name, value in pairs}


def server(issuer: str, resource: str) -> MCPServer:
    protected = MCPServer(
        "mcp-auth-tests",
        token_verifier=JwtVerifier(issuer, resource),
        # The verifier has checked the audience already.
        auth=AuthSettings(issuer_url=issuer, resource_server_url=resource, validate_token_resource=False),
    )
    for tool in (whoami, slow, big):
        protected.tool()(tool)
    return protected


def application(issuer: str, url: str):
    # The SDK refuses requests whose Host header names another server: a proxy has to state the real one.
    security = TransportSecuritySettings(allowed_hosts=[urlsplit(url).netloc])
    streamable = server(issuer, f"{url}/mcp").streamable_http_app(transport_security=security)
    legacy = server(issuer, f"{url}/sse").sse_app(transport_security=security)

    async def both(scope, receive, send) -> None:
        legacy_paths = ("/sse", "/messages", "/.well-known/oauth-protected-resource/sse")
        chosen = legacy if scope.get("path", "").startswith(legacy_paths) else streamable
        await chosen(scope, receive, send)

    return Observed(both)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True, help="own URL as clients see it, without a path")
    parser.add_argument("--issuer", required=True, help="whose tokens are accepted")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--tls-certificate", help="PEM file; together with --tls-key: serve https")
    parser.add_argument("--tls-key")
    parser.add_argument("--tls-client-ca", help="PEM file: clients must show a certificate of this authority")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    uvicorn.run(
        application(options.issuer, options.url),
        host=options.host,
        port=options.port,
        log_level="warning",
        ssl_certfile=options.tls_certificate,
        ssl_keyfile=options.tls_key,
        ssl_ca_certs=options.tls_client_ca,
        ssl_cert_reqs=ssl.CERT_REQUIRED if options.tls_client_ca else ssl.CERT_NONE,
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
