"""Verifies the bearer tokens of one issuer for one resource: a signed JWT goes in, its claims come out, or nothing.

The SDK asks this for every request and answers 401 with WWW-Authenticate where it returns None.
"""

import asyncio
import json
import sys
import urllib.request

import jwt
from mcp.server.auth.provider import AccessToken, TokenVerifier

ALGORITHMS = ["ES256", "PS256", "RS256"]
REQUIRED_CLAIMS = ["aud", "client_id", "exp", "iss", "sub"]


class JwtVerifier(TokenVerifier):
    """Trusts the keys that the issuer publishes (RFC 8414), and tokens whose audience is exactly this resource."""

    def __init__(self, issuer: str, resource: str) -> None:
        self.issuer = issuer
        self.resource = resource
        self.keys: jwt.PyJWKClient | None = None

    async def verify_token(self, token: str) -> AccessToken | None:
        try:
            # The keys are fetched with blocking calls, at the first token and at every unknown key id.
            claims = await asyncio.to_thread(self.claims, token)
        except (jwt.PyJWTError, OSError, ValueError) as error:
            # The reason only: a message of the library could quote the token.
            refused = {"event": "refused", "reason": type(error).__name__, "resource": self.resource}
            print(json.dumps(refused), file=sys.stderr, flush=True)
            return None
        return AccessToken(
            token=token,
            client_id=claims["client_id"],
            scopes=claims.get("scope", "").split(),
            expires_at=claims["exp"],
            resource=self.resource,
            subject=claims["sub"],
            claims=claims,
        )

    def claims(self, token: str) -> dict:
        if self.keys is None:
            metadata_url = f"{self.issuer}/.well-known/openid-configuration"
            with urllib.request.urlopen(metadata_url, timeout=60) as answer:
                metadata = json.load(answer)
            if metadata["issuer"] != self.issuer:
                raise ValueError("the issuer's metadata speaks of another issuer")
            self.keys = jwt.PyJWKClient(metadata["jwks_uri"], timeout=60)
        if jwt.get_unverified_header(token).get("typ", "").lower() != "at+jwt":
            raise jwt.InvalidTokenError("not an access token (RFC 9068)")
        return jwt.decode(
            token,
            self.keys.get_signing_key_from_jwt(token).key,
            algorithms=ALGORITHMS,
            audience=self.resource,
            issuer=self.issuer,
            options={"require": REQUIRED_CLAIMS, "strict_aud": True},
        )
