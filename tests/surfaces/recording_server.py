"""The tests' MCP server, which also keeps what arrived with each JSON-RPC message; GET /taken gives that and forgets it.

Cookie values are in it: the users of these tests are made up.
"""

import os
import sys

import uvicorn

sys.path.append(os.environ["MCPAUTH_TEST_PROGRAMS"])

import mcp_server
from observed import Observed, answer_json, rpc_method


# What clients of these tests try to set for the server.
FORGED_HEADERS = "x-forged"


class Recording(Observed):
    def __init__(self, application) -> None:
        super().__init__(application)
        self.arrived = []

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http" and scope["path"] == "/taken":
            arrived, self.arrived = self.arrived, []
            return await answer_json(send, arrived)
        await super().__call__(scope, receive, send)

    def record(self, scope, body, status) -> None:
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        token = getattr(scope.get("user"), "access_token", None)
        arrived = {
            "rpc": rpc_method(body),
            "status": status,
            "service": token and token.subject,
            "cookies": mcp_server.cookies("; ".join(value for name, value in headers if name == "cookie")),
            "identity": [[name, value] for name, value in headers if name in mcp_server.IDENTITY_HEADERS],
            "leaked": [name for name, _ in headers if name in mcp_server.NEVER_TO_ARRIVE or name.startswith(FORGED_HEADERS)],
        }
        self.arrived.append(arrived)


def main() -> None:
    options = mcp_server.arguments()
    application = Recording(mcp_server.application(options.issuer, options.url).application)
    uvicorn.run(application, host=options.host, port=options.port, log_level="warning", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
