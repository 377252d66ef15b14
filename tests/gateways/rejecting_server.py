"""The tests' MCP server, which can be made to refuse tokens before their end: POST /reject refuses every token that it has
accepted so far, as a server does whose authorization server revoked them. GET /rejected says how many requests came with one.
"""

import hashlib
import os
import sys

sys.path.append(os.environ["MCPAUTH_TEST_PROGRAMS"])

import mcp_server
from bearer import JwtVerifier
from observed import Observed, answer_json

accepted: set[bytes] = set()
refused: set[bytes] = set()
refusals = 0


class Rejecting(JwtVerifier):
    async def verify_token(self, token: str):
        global refusals
        digest = hashlib.sha256(token.encode()).digest()
        if digest in refused:
            refusals += 1
            return None
        verified = await super().verify_token(token)
        if verified:
            accepted.add(digest)
        return verified


class Administered(Observed):
    async def __call__(self, scope, receive, send) -> None:
        if scope.get("path") == "/reject":
            refused.update(accepted)
        if scope.get("path") in ("/reject", "/rejected"):
            return await answer_json(send, {"requests": refusals})
        await super().__call__(scope, receive, send)


if __name__ == "__main__":
    mcp_server.JwtVerifier = Rejecting
    mcp_server.Observed = Administered
    mcp_server.main()
