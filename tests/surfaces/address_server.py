"""LiteLLM's own decisions by client address, asked for over HTTP: what its functions say of the request that arrives,
under the `general_settings` in the header `settings`. Run by each server as LiteLLM is, on loopback; gunicorn takes
`address_server:app`.

  address_server.py uvicorn PORT=FORWARDED_ALLOW_IPS...   one uvicorn each
  address_server.py hypercorn PORT
  address_server.py granian PORT
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
    internal = IPAddressUtils.parse_internal_networks(settings.get("mcp_internal_ip_ranges"))
    return found | {
        "address for MCP servers": client,
        "sees internal MCP servers": IPAddressUtils.is_internal_ip(client, internal),
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


def main() -> None:
    run, *listeners = sys.argv[1:]
    match run:
        case "uvicorn":
            asyncio.run(serve(listeners))
        case "hypercorn":
            # LiteLLM's own way to start it, as for `litellm --run_hypercorn`.
            from litellm.proxy.proxy_cli import ProxyInitializationHelpers

            where = {"host": "127.0.0.1", "port": int(listeners[0]), "ssl_certfile_path": None, "ssl_keyfile_path": None}
            ProxyInitializationHelpers._init_hypercorn_server(app, **where)
        case "granian":
            from granian import Granian
            from granian.constants import Interfaces

            # With the arguments of LiteLLM's `init_granian_server`, which names its own application.
            target = {"target": "address_server:app", "interface": Interfaces.ASGI, "websockets": True}
            Granian(**target, address="127.0.0.1", port=int(listeners[0]), workers=1).serve()


if __name__ == "__main__":
    main()
