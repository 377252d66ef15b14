"""LiteLLM's own decisions by client address, asked for over HTTP: what its functions say of the request that arrives,
under the `general_settings` in the header `settings`. Run by uvicorn or gunicorn as LiteLLM is.

  address_server.py PORT=FORWARDED_ALLOW_IPS...   one uvicorn each, on loopback
"""

import asyncio
import json
import sys

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse

from litellm.proxy.auth import auth_utils

try:
    from litellm.proxy.auth.ip_address_utils import IPAddressUtils
except ImportError:  # before it hid MCP servers by address
    IPAddressUtils = None


async def app(scope, receive, send) -> None:
    if scope["type"] != "http":
        return
    request = Request(scope, receive)
    settings = json.loads(request.headers.get("settings", "{}"))
    await JSONResponse(decisions(request, settings))(scope, receive, send)


def decisions(request: Request, settings: dict) -> dict:
    trusts_header = settings.get("use_x_forwarded_for", False)
    allowed, address = auth_utils._check_valid_ip(settings.get("allowed_ips"), request, trusts_header)
    found = {
        "client": request.client.host,
        "scheme": request.url.scheme,
        "allowed by allowed_ips": allowed,
        "address for allowed_ips": address,
        "stated": request.headers.get("x-forwarded-for"),
    }
    if IPAddressUtils is None:
        return found
    client = IPAddressUtils.get_mcp_client_ip(request, settings)
    return found | {
        "address for MCP servers": client,
        "sees internal MCP servers": IPAddressUtils.is_internal_ip(client),
        "is https": IPAddressUtils.is_request_https(request, settings),
        "trusted proxy": IPAddressUtils.is_request_from_trusted_proxy(request, settings),
    }


async def serve(listeners: list[str]) -> None:
    servers = []
    for listener in listeners:
        port, _, trusted = listener.partition("=")
        config = uvicorn.Config(
            app, host="127.0.0.1", port=int(port), forwarded_allow_ips=trusted, lifespan="off", log_level="warning"
        )
        servers.append(uvicorn.Server(config).serve())
    await asyncio.gather(*servers)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1:]))
