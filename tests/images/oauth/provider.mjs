// The authorization server: a real one (oidc-provider) that issues signed access tokens (RFC 9068) to machine clients
// for the resource they name (RFC 8707). Their claim `credential` tells which generation of the secret was used.

import { generateKeyPairSync } from "node:crypto";
import { errors, Provider } from "oidc-provider";

export function createProvider({ issuer, clients: registrations, resources }, clients, state) {
  const provider = new Provider(issuer, {
    clients: registrations.map(registration),
    clientAuthMethods: ["client_secret_basic", "client_secret_post", "private_key_jwt"],
    cookies: { keys: ["unused: machine clients have no sessions"] },
    jwks: { keys: [signingKey()] },
    scopes: ["openid", "tools:call"],
    responseTypes: [],
    ttl: { ClientCredentials: () => state.lifetime },
    extraTokenClaims: (ctx) => ({ credential: ctx.state.credential }),
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo(_ctx, resource) {
          if (resources && !resources.includes(resource)) throw new errors.InvalidTarget();
          return { scope: "tools:call", accessTokenFormat: "jwt", accessTokenTTL: state.lifetime };
        },
      },
    },
  });

  // A client here has several secrets at a time, and each request remembers which one it came with.
  provider.Client.prototype.compareClientSecret = function compare(secret) {
    const generation = clients.generation(this.clientId, secret);
    if (generation !== undefined) Provider.ctx.state.credential = generation;
    return generation !== undefined;
  };

  provider.use(async (ctx, next) => {
    if (ctx.path !== "/token") return next();
    state.requests += 1;
    const { fault } = state;
    state.underWay += 1;
    state.mostUnderWay = Math.max(state.mostUnderWay, state.underWay);
    ctx.res.once("close", () => (state.underWay -= 1));
    if (fault?.seconds) await new Promise((resolve) => setTimeout(resolve, fault.seconds * 1000));
    if (fault?.status) {
      ctx.status = fault.status;
      ctx.body = fault.body ?? { error: "temporarily_unavailable" };
      if (fault.retryAfter) ctx.set("retry-after", String(fault.retryAfter));
    } else {
      await next();
      // No real server says so at will.
      if (fault?.expiresIn !== undefined && ctx.status === 200) ctx.body.expires_in = fault.expiresIn;
    }
    record(ctx, state);
  });
  return provider;
}

function registration({ id, secret, jwks }) {
  const machine = { client_id: id, grant_types: ["client_credentials"], redirect_uris: [], response_types: [] };
  if (jwks) return { ...machine, jwks, token_endpoint_auth_method: "private_key_jwt" };
  // Both ways to send a secret are taken from a client that is registered for either.
  return { ...machine, client_secret: secret, token_endpoint_auth_method: "client_secret_basic" };
}

function signingKey() {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return { ...privateKey.export({ format: "jwk" }), alg: "RS256", use: "sig" };
}

// A line for each token request, without the secret and without the token.
function record(ctx, state) {
  const issued = ctx.status === 200;
  const { credential } = ctx.state;
  if (issued) {
    state.issued += 1;
    if (credential) state.issuedFor[credential] = (state.issuedFor[credential] ?? 0) + 1;
  } else {
    state.refused += 1;
  }
  const line = {
    event: issued ? "issued" : "refused",
    status: ctx.status,
    error: issued ? undefined : ctx.body?.error,
    client: ctx.oidc?.client?.clientId,
    credential,
    resource: ctx.oidc?.params?.resource,
  };
  console.log(JSON.stringify(line));
}
