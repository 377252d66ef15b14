// What is remembered of a request: how the client authenticated and what it asked for, never a secret, an assertion or
// a token.

import { decodeJwt, decodeProtectedHeader } from "jose";

export function record(ctx, clients, state) {
  const { oidc, status } = ctx;
  const { credential } = ctx.state;
  const revocation = ctx.path === "/token/revocation";
  const done = status === 200;
  if (revocation) {
    if (revoked(oidc)) state.revoked += 1;
  } else if (done) {
    state.issued += 1;
    if (credential) state.issuedFor[credential] = (state.issuedFor[credential] ?? 0) + 1;
  } else {
    state.refused += 1;
  }
  const client = oidc?.client?.clientId;
  const asked = oidc?.body ?? {};
  const line = {
    event: revocation ? "revocation" : done ? "issued" : "refused",
    status,
    error: done ? undefined : ctx.body?.error,
    client,
    credential,
    resource: asked.resource,
    method: method(ctx, asked),
    grant: asked.grant_type,
    scope: asked.scope,
    audience: asked.audience,
    subjectTokenType: asked.subject_token_type,
    requestedTokenType: asked.requested_token_type,
    clientAssertion: claims(asked.client_assertion),
    assertion: claims(asked.assertion),
    dpop: claims(ctx.get("dpop")),
    certificate: ctx.socket.getPeerX509Certificate?.()?.fingerprint256,
    revoked: revocation ? revoked(oidc) : undefined,
  };
  clients.remember(client, line);
  console.log(JSON.stringify(line));
}

function revoked(oidc) {
  const { AccessToken, ClientCredentials } = oidc?.entities ?? {};
  return Boolean(AccessToken ?? ClientCredentials);
}

function method(ctx, asked) {
  if (asked.client_assertion) return "private_key_jwt";
  if (asked.client_secret) return "client_secret_post";
  if (ctx.headers.authorization) return "client_secret_basic";
  return ctx.oidc?.client?.clientAuthMethod;
}

// Of a JWT what may be told: it is nothing without its signature, and even so only what tests ask for.
function claims(jwt) {
  if (!jwt) return undefined;
  try {
    const { alg, kid } = decodeProtectedHeader(jwt);
    const { iss, sub, aud, iat, exp, jti, htu, nonce } = decodeJwt(jwt);
    return { alg, kid, iss, sub, aud, lifetime: exp && exp - iat, jti, htu, nonce: nonce && true };
  } catch {
    return { malformed: true };
  }
}
