// What each `auth/*` scenario of the suite means for a client that is a machine: the resource that a user of ours
// would write for it, what can be expected, and why the rest does not apply.

import { generateKeyPairSync, sign } from "node:crypto";

/** Why a check of the suite cannot be met by a client that acts for no user. Whatever fails beside these is a fault. */
export const UNMET = {
  "authorization-request": "no user is there to be asked: the machine grants have no authorization request",
  "resource-parameter-in-authorization": "as `authorization-request`; the token request does carry `resource`",
  "client-registration": "the client is registered beforehand, by whoever writes the resource: nothing registers itself",
  "cimd-client-id-used": "looked for in the authorization request; a Client ID Metadata Document is another way to register",
  "scope-from-www-authenticate": "looked for in the authorization request; the token requests are shown instead",
  "scope-from-scopes-supported": "looked for in the authorization request; the token requests are shown instead",
  "scope-omitted-when-undefined": "looked for in the authorization request; the token requests are shown instead",
  "scope-step-up-initial": "looked for in the authorization request; the token requests are shown instead",
  "scope-step-up-escalation": "looked for in a second authorization request; the token requests are shown instead",
  "sep-2350-scope-union-on-reauth": "looked for in a second authorization request; the token requests are shown instead",
  "scope-retry-limit": "counts authorization requests; the number of token requests is shown instead",
  "sep-2207-offline-access-requested": "a machine grant gives no refresh token: `offline_access` means nothing to it",
  "sep-2207-offline-access-not-requested": "looked for in the authorization request; the token requests are shown instead",
  "sep-2207-client-metadata-grant-types": "as `client-registration`",
  "sep-2468-client-compare-iss-supported": "`iss` (RFC 9207) stands in the answer to an authorization request",
  "sep-2468-client-compare-iss-unadvertised": "`iss` (RFC 9207) stands in the answer to an authorization request",
  "sep-2468-client-no-normalization": "`iss` (RFC 9207) stands in the answer to an authorization request",
  "sep-2468-client-reject-missing-iss": "`iss` (RFC 9207) stands in the answer to an authorization request",
  "complete-flow-token-exchange":
    "the first half, at the company's sign-on: the run itself makes it, as whatever keeps the assertion in the Secret would",
  "sep-2352-reregister-on-as-change": "as `client-registration`; a new authorization server is told in the status, for a person to decide",
  "sep-1932-client-token-request-proof": "the suite looks at token requests with an authorization code only",
  "sep-1932-client-as-nonce": "the suite looks at token requests with an authorization code only",
};

/** Checks that the suite sees met, by the run itself and not by us. */
export const BY_THE_RUN = { "auth/enterprise-managed-authorization": ["complete-flow-token-exchange"] };

/** Scenarios whose server serves nobody but a user, or must not be trusted. In all others the tool's answer has to arrive. */
export const NOT_SERVED = [
  "auth/scope-from-www-authenticate",
  "auth/scope-step-up",
  "auth/scope-retry-limit",
  "auth/resource-mismatch",
  "auth/metadata-issuer-mismatch",
  "auth/authorization-server-migration",
];

const ISS = "tests the answer to an authorization request, and a machine makes none";

/** Scenarios that are about something that a machine client does not do. They are run all the same. */
export const NOT_APPLICABLE = {
  "auth/basic-cimd": "a Client ID Metadata Document is shown in an authorization request, and a machine makes none",
  "auth/offline-access-scope": "refresh tokens belong to a user's consent",
  "auth/offline-access-not-supported": "refresh tokens belong to a user's consent",
  "auth/iss-supported": `${ISS}: the suite counts a token request as passed`,
  "auth/iss-not-advertised": `${ISS}: the suite counts a token request as passed`,
  "auth/iss-supported-missing": ISS,
  "auth/iss-wrong-issuer": ISS,
  "auth/iss-unexpected": ISS,
  "auth/iss-normalized": ISS,
};

const CLIENT = { client_id: "conformance-machine", client_secret: "conformance-machine-secret" };

/**
 * `{oauth2, secret}`: the block of the resource and the data of the Secret that it refers to. `context` is what the
 * suite hands to a client, `server` the URL of its MCP server.
 */
export async function credentials(scenario, server, context) {
  const { client_id: clientId, client_secret: clientSecret } = { ...CLIENT, ...context };
  const allowances = { allowInsecureHttp: true, allowPrivateAddresses: true };
  const by = (method, more = {}) => ({
    ...allowances,
    clientId,
    clientAuthentication: { method, clientSecretRef: key("client-secret") },
    ...more,
  });
  const secret = { "client-secret": clientSecret };
  switch (scenario) {
    case "auth/pre-registration":
      return { oauth2: by("ClientSecretBasic", { issuer: context.issuer }), secret };
    case "auth/token-endpoint-auth-post":
      return { oauth2: by("ClientSecretPost"), secret };
    case "auth/token-endpoint-auth-none":
      return bearing(assertion(), {});
    case "auth/wif-jwt-bearer":
      return bearing(context.valid_jwt, { clientId });
    case "auth/enterprise-managed-authorization":
      return {
        oauth2: by("ClientSecretBasic", { jwtBearer: { assertionRef: key("assertion") } }),
        secret: { ...secret, assertion: await grantOfIdentityProvider(server, context) },
      };
    case "auth/client-credentials-jwt":
      return {
        oauth2: {
          ...allowances,
          clientId,
          clientAuthentication: {
            method: "PrivateKeyJwt",
            privateKeyJwt: { keyRef: key("key.pem"), algorithm: context.signing_algorithm },
          },
        },
        secret: { "key.pem": context.private_key_pem },
      };
    case "auth/dpop":
    case "auth/dpop-nonce":
      return { oauth2: by("ClientSecretBasic", { tokenType: "DPoP" }), secret };
    default:
      return { oauth2: by("ClientSecretBasic"), secret };
  }

  function bearing(jwt, more) {
    const clientAuthentication = { method: "None" };
    const oauth2 = { ...allowances, ...more, clientAuthentication, jwtBearer: { assertionRef: key("assertion") } };
    return { oauth2, secret: { assertion: jwt } };
  }

  function key(of) {
    return { name: resourceName(scenario), key: of };
  }
}

/** Name of the resource and of its Secret. */
export function resourceName(scenario) {
  return `${scenario.replace("/", "-")}-${process.env.MCP_CONFORMANCE_PROTOCOL_VERSION ?? ""}`;
}

/** What is shown beside the suite's own checks: a claim about the run that holds, or an error that says what was. */
export const ALSO = {
  "auth/scope-from-www-authenticate": asksFor("mcp:basic"),
  "auth/scope-from-scopes-supported": asksFor("mcp:basic mcp:read mcp:write"),
  "auth/scope-omitted-when-undefined": asksFor(undefined),
  "auth/scope-step-up": ({ tokenRequests, reason }) => {
    const [first, ...more] = tokenRequests.map(({ scope }) => scope?.split(" ") ?? []);
    const union = more.some((scopes) => scopes.includes("mcp:write") && first.every((scope) => scopes.includes(scope)));
    claim(union, "a later token request for mcp:write and all that was asked for before", tokenRequests);
    claim(tokenRequests.length <= 4, "at most 4 token requests", tokenRequests);
    return `the token request after the challenge asks for the union of the scopes; the suite's server grants it to nobody but a user: \`${reason}\``;
  },
  "auth/scope-retry-limit": ({ tokenRequests, reason }) => {
    claim(tokenRequests.length <= 4, "at most 4 token requests", tokenRequests);
    return `at most 4 token requests, then \`${reason}\``;
  },
  "auth/resource-mismatch": asksNothing,
  "auth/metadata-issuer-mismatch": asksNothing,
  "auth/authorization-server-migration": ({ tokens, reason }) => {
    // The suite itself looks only for a client identifier that it had registered.
    claim(tokens.length > 0 && !tokens.some((token) => token.startsWith("test-token-as2")), "tokens of the first server", tokens);
    return `the new authorization server is not asked: \`${reason}\``;
  },
  "auth/offline-access-not-supported": ({ tokenRequests }) => {
    claim(!tokenRequests.some(({ scope }) => scope?.includes("offline_access")), "no offline_access", tokenRequests);
    return "no token request asks for offline_access";
  },
  "auth/enterprise-managed-authorization": () => "the second half, from the identity provider's grant in a Secret to the tool's answer",
  "auth/dpop": boundToken,
  "auth/dpop-nonce": boundToken,
};

function asksFor(scope) {
  return ({ tokenRequests }) => {
    const asked = [...new Set(tokenRequests.map((request) => sorted(request.scope)))];
    claim(asked.length === 1 && asked[0] === sorted(scope), `token requests with scope ${scope}`, tokenRequests);
    return scope ? `the token request asks for \`${scope}\`` : "the token request has no `scope`";
  };
}

function asksNothing({ tokenRequests, reason }) {
  claim(tokenRequests.length === 0, "no token request", tokenRequests);
  return `no token request is made: \`${reason}\``;
}

function boundToken() {
  return "the token that the server hands out is bound to the proof's key, and it serves";
}

function sorted(scope) {
  return scope?.split(" ").sort().join(" ");
}

function claim(holds, wanted, found) {
  if (!holds) throw new Error(`expected ${wanted}, found ${JSON.stringify(found)}`);
}

/** An assertion for a server that looks at none. */
function assertion() {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const encode = (part) => Buffer.from(JSON.stringify(part)).toString("base64url");
  const now = Math.floor(Date.now() / 1000);
  const signed = `${encode({ alg: "ES256" })}.${encode({ iss: "run", sub: "run", iat: now, exp: now + 300 })}`;
  const signature = sign("sha256", Buffer.from(signed), { key: privateKey, dsaEncoding: "ieee-p1363" });
  return `${signed}.${signature.toString("base64url")}`;
}

/** The first half of enterprise-managed authorization, which belongs to the company's sign-on and not to us. */
async function grantOfIdentityProvider(server, context) {
  const metadata = await (await fetch(new URL("/.well-known/oauth-protected-resource/mcp", server))).json();
  const body = new URLSearchParams({
    grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
    requested_token_type: "urn:ietf:params:oauth:token-type:id-jag",
    subject_token: context.idp_id_token,
    subject_token_type: "urn:ietf:params:oauth:token-type:id_token",
    audience: metadata.authorization_servers[0],
    resource: metadata.resource,
    client_id: context.idp_client_id,
  });
  return (await (await fetch(context.idp_token_endpoint, { method: "POST", body })).json()).access_token;
}
