// The authorization server: a real one (oidc-provider) that issues access tokens to machine clients for the resource
// they name (RFC 8707), signed ones (RFC 9068) unless a client is registered for opaque ones. The claim `credential`
// tells which generation of the secret was used.

import { generateKeyPairSync, randomBytes } from "node:crypto";
import { errors, Provider } from "oidc-provider";
import { createMemoryAdapter } from "oidc-provider/lib/adapters/memory_adapter.js";

import { registerGrants } from "./grants.mjs";
import { record } from "./record.mjs";

const SCOPES = ["tools:admin", "tools:call", "tools:read"];

// What the providers of this process share, so that they are one server under several URLs.
export function shared() {
  return { jwks: { keys: [signingKey()] }, nonces: randomBytes(32), adapter: createMemoryAdapter() };
}

// A provider under this issuer. `aliases` are the endpoints that ask for a certificate (RFC 8705 section 5).
export function createProvider({ issuer, aliases, configuration, clients, state, common }) {
  const { resources } = configuration;
  const provider = new Provider(issuer, {
    // Only where the configuration says: by default oidc-provider connects to no address of this machine.
    fetch: async (url, { dispatcher: _, ...options }) => {
      const { origin, pathname } = new URL(url);
      const really = configuration.hosts?.[origin];
      if (!really) throw new Error(`nothing is published at ${origin}`);
      return fetch(new URL(pathname, really), options);
    },
    adapter: (name) => (name === "Client" ? { find: async (id) => clients.metadata(id) } : common.adapter(name)),
    clientAuthMethods: [
      "client_secret_basic",
      "client_secret_post",
      "private_key_jwt",
      "tls_client_auth",
      "self_signed_tls_client_auth",
      "none",
    ],
    cookies: { keys: ["unused: machine clients have no sessions"] },
    discovery: aliases ? { mtls_endpoint_aliases: aliases } : {},
    enabledJWA: { clientAuthSigningAlgValues: ["RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519"] },
    jwks: common.jwks,
    scopes: ["openid", ...SCOPES],
    responseTypes: [],
    ttl: {
      AccessToken: (_ctx, _token, client) => lifetime(client),
      ClientCredentials: (_ctx, _token, client) => lifetime(client),
    },
    extraTokenClaims: (ctx) => ({ credential: ctx?.state.credential }),
    features: {
      clientCredentials: { enabled: true },
      clientIdMetadataDocument: { enabled: true, ack: "draft-02" },
      devInteractions: { enabled: false },
      dPoP: {
        enabled: true,
        nonceSecret: common.nonces,
        requireNonce: (ctx) => clients.wishes(ctx.oidc.client?.clientId).nonce === true,
      },
      mTLS: {
        enabled: true,
        certificateBoundAccessTokens: true,
        selfSignedTlsClientAuth: true,
        tlsClientAuth: true,
        getCertificate: (ctx) => ctx.socket.getPeerX509Certificate?.(),
        certificateAuthorized: (ctx) => ctx.socket.authorized === true,
        certificateSubjectMatches: (ctx, property, expected) =>
          property === "tls_client_auth_subject_dn" && subject(ctx.socket.getPeerX509Certificate()) === expected,
      },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => configuration.defaultResource ?? [],
        getResourceServerInfo(_ctx, resource, client) {
          if (resources && !resources.includes(resource)) throw new errors.InvalidTarget();
          const accessTokenFormat = clients.wishes(client.clientId).opaque ? "opaque" : "jwt";
          return { scope: SCOPES.join(" "), accessTokenFormat, accessTokenTTL: lifetime(client) };
        },
      },
      revocation: { enabled: true },
    },
  });
  registerGrants(provider, configuration, common.jwks);

  function lifetime(client) {
    return clients.wishes(client?.clientId).lifetime ?? state.lifetime;
  }

  // A client here has several secrets at a time, and each request remembers which one it came with.
  provider.Client.prototype.compareClientSecret = function compare(secret) {
    const generation = clients.generation(this.clientId, secret);
    if (generation !== undefined) Provider.ctx.state.credential = generation;
    return generation !== undefined;
  };

  provider.use(async (ctx, next) => {
    if (ctx.path !== "/token") {
      await next();
      if (ctx.path === "/token/revocation") record(ctx, clients, state);
      return;
    }
    state.requests += 1;
    const { fault } = state;
    state.underWay += 1;
    state.mostUnderWay = Math.max(state.mostUnderWay, state.underWay);
    ctx.res.once("close", () => (state.underWay -= 1));
    if (fault?.seconds) await wait(fault.seconds);
    if (fault?.status) answer(ctx, fault);
    else await next();
    // No real server says so at will.
    if (fault?.expiresIn !== undefined && ctx.status === 200) ctx.body.expires_in = fault.expiresIn;
    // Who asks is known only now.
    const own = clients.fault(ctx.oidc?.client?.clientId);
    if (own?.seconds) await wait(own.seconds);
    if (own?.status) answer(ctx, own);
    record(ctx, clients, state);
  });
  return provider;
}

const wait = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

function answer(ctx, { status, body, retryAfter }) {
  ctx.status = status;
  ctx.body = body ?? { error: "temporarily_unavailable" };
  if (retryAfter) ctx.set("retry-after", String(retryAfter));
}

// As RFC 4514 writes it: the most specific part first.
function subject(certificate) {
  return certificate?.subject.split("\n").reverse().join(",");
}

function signingKey() {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return { ...privateKey.export({ format: "jwk" }), alg: "RS256", use: "sig" };
}
