// Two grants that oidc-provider has no handler for, on its own primitives: token exchange (RFC 8693) of a user's access
// token that this server issued, and jwt-bearer (RFC 7523) with assertions of issuers that the configuration names.
// Both issue an access token for the user or subject, bound by certificate or DPoP as the client is registered.
// Token exchange also issues identity assertion authorization grants (draft-ietf-oauth-identity-assertion-authz-grant) for
// another issuer of the configuration, and jwt-bearer takes those that the other one issued.

import { createPrivateKey, createPublicKey, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { decodeJwt, decodeProtectedHeader, jwtVerify, SignJWT } from "jose";
import { errors } from "oidc-provider";
import {
  buildTokenResponse,
  checkDpopReplay,
  checkDpopRequired,
  checkMtlsCert,
  resolveRequestedResources,
  validateClientScope,
  validateDpop,
} from "oidc-provider/lib/helpers/grants.js";

export const TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange";
export const JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token";
const ID_JAG = "urn:ietf:params:oauth:token-type:id-jag";
const ID_JAG_TYP = "oauth-id-jag+jwt";

export function registerGrants(provider, { assertionIssuers = [], issuer, secure }, jwks) {
  // Both issuers of this process sign by one key.
  const peers = [issuer, secure?.issuer].filter((each) => each && each !== provider.issuer);
  const exchanged = ["subject_token", "subject_token_type", "requested_token_type", "audience", "resource", "scope"];
  provider.registerGrantType(
    TOKEN_EXCHANGE,
    async (ctx) => {
      const { subject_token: subject, subject_token_type: type, requested_token_type: wanted } = ctx.oidc.params;
      if (type !== ACCESS_TOKEN) throw new errors.InvalidRequest("subject_token_type must be an access token");
      if (wanted && ![ACCESS_TOKEN, ID_JAG].includes(wanted)) {
        throw new errors.InvalidRequest("requested_token_type is not issued here");
      }
      const token = subject && (await provider.AccessToken.find(subject));
      if (!token || token.isExpired) throw new errors.InvalidRequest("subject_token is invalid or over");
      if (wanted === ID_JAG) {
        ctx.body = await idJag(ctx, { issuer: provider.issuer, subject: token.accountId, peers, jwks });
        return;
      }
      await issue(provider, ctx, token.accountId, ACCESS_TOKEN);
    },
    exchanged,
    ["resource", "audience"],
  );
  provider.registerGrantType(
    JWT_BEARER,
    async (ctx) => {
      const { assertion } = ctx.oidc.params;
      if (assertion && typ(assertion) === ID_JAG_TYP) {
        const granted = await verifiedIdJag(ctx, { issuer: provider.issuer, peers, jwks });
        // The grant says what the token is for (section 4.4.1), and the request nothing.
        ctx.oidc.params.resource = granted.resource;
        ctx.oidc.params.scope = granted.scope;
        await issue(provider, ctx, granted.sub);
        return;
      }
      await issue(provider, ctx, await verified(ctx, provider.issuer, assertionIssuers));
    },
    ["assertion", "resource", "scope"],
    ["resource"],
  );
}

// A grant for the authorization server that `audience` names, by its issuer.
async function idJag(ctx, { issuer, subject, peers, jwks }) {
  const { audience, resource, scope } = ctx.oidc.params;
  if (!peers.includes(audience)) throw new errors.InvalidTarget("audience is no authorization server that is known here");
  const [key] = jwks.keys;
  const assertion = await new SignJWT({ client_id: ctx.oidc.client.clientId, resource, scope })
    .setProtectedHeader({ alg: key.alg, typ: ID_JAG_TYP })
    .setIssuer(issuer)
    .setSubject(subject)
    .setAudience(audience)
    .setIssuedAt()
    .setExpirationTime("5m")
    .setJti(randomUUID())
    .sign(createPrivateKey({ key, format: "jwk" }));
  return { access_token: assertion, issued_token_type: ID_JAG, token_type: "N_A", expires_in: 300, scope };
}

function typ(jwt) {
  try {
    return decodeProtectedHeader(jwt).typ;
  } catch {
    return undefined;
  }
}

// The claims of a grant that another issuer of this process made for this one and for this very client.
async function verifiedIdJag(ctx, { issuer, peers, jwks }) {
  try {
    const [key] = jwks.keys;
    const expected = { issuer: peers, audience: issuer, typ: ID_JAG_TYP, requiredClaims: ["sub", "exp", "client_id"] };
    const { payload } = await jwtVerify(ctx.oidc.params.assertion, createPublicKey({ key, format: "jwk" }), expected);
    if (payload.client_id !== ctx.oidc.client.clientId) throw new Error("it is for another client");
    return payload;
  } catch (error) {
    throw new errors.InvalidGrant(`grant refused: ${error.message}`);
  }
}

// The subject of an assertion that is rightly signed, in time and meant for this server.
async function verified(ctx, issuer, assertionIssuers) {
  const { assertion } = ctx.oidc.params;
  try {
    const { iss } = decodeJwt(assertion);
    const trusted = assertionIssuers.find((each) => each.issuer === iss);
    if (!trusted) throw new Error("its issuer is not trusted");
    // Read late: the API server that signs makes its key while this server starts already.
    const key = createPublicKey(readFileSync(trusted.key));
    const audience = [issuer, ctx.oidc.urlFor("token")];
    const { payload } = await jwtVerify(assertion, key, { issuer: iss, audience, requiredClaims: ["sub", "exp"] });
    return payload.sub;
  } catch (error) {
    throw new errors.InvalidGrant(`assertion refused: ${error.message}`);
  }
}

async function issue(provider, ctx, accountId, issuedTokenType) {
  const { client } = ctx.oidc;
  const proof = await validateDpop(provider, ctx);
  checkDpopRequired(provider, ctx, proof);
  const resources = await resolveRequestedResources(provider, ctx);
  if (resources.length > 1) throw new errors.InvalidTarget("one resource at a time");
  const scopes = [...validateClientScope(provider, ctx)];

  const token = new provider.AccessToken({ accountId, client, gty: ctx.oidc.params.grant_type });
  const [resource] = resources;
  if (resource) token.resourceServer = resource;
  token.scope = scopes.filter((scope) => !resource || resource.scopes.has(scope)).join(" ") || undefined;
  const certificate = checkMtlsCert(provider, ctx);
  if (certificate) token.setThumbprint("x5t", certificate);
  if (proof) {
    await checkDpopReplay(provider, ctx, proof, client.clientId);
    token.setThumbprint("jkt", proof.thumbprint);
  }
  ctx.oidc.entity("AccessToken", token);
  const accessToken = await token.save();
  const { expiration: expiresIn, scope, tokenType } = token;
  ctx.body = buildTokenResponse(provider, { accessToken, expiresIn, issuedTokenType, scope, tokenType });
}
