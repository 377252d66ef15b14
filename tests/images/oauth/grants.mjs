// Two grants that oidc-provider has no handler for, on its own primitives: token exchange (RFC 8693) of a user's access
// token that this server issued, and jwt-bearer (RFC 7523) with assertions of issuers that the configuration names.
// Both issue an access token for the user or subject, bound by certificate or DPoP as the client is registered.

import { createPublicKey } from "node:crypto";
import { readFileSync } from "node:fs";
import { decodeJwt, jwtVerify } from "jose";
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

export function registerGrants(provider, { assertionIssuers = [] }) {
  const exchanged = ["subject_token", "subject_token_type", "requested_token_type", "audience", "resource", "scope"];
  provider.registerGrantType(
    TOKEN_EXCHANGE,
    async (ctx) => {
      const { subject_token: subject, subject_token_type: type, requested_token_type: wanted } = ctx.oidc.params;
      if (type !== ACCESS_TOKEN) throw new errors.InvalidRequest("subject_token_type must be an access token");
      if (wanted && wanted !== ACCESS_TOKEN) throw new errors.InvalidRequest("requested_token_type is not issued here");
      const token = subject && (await provider.AccessToken.find(subject));
      if (!token || token.isExpired) throw new errors.InvalidRequest("subject_token is invalid or over");
      await issue(provider, ctx, token.accountId, ACCESS_TOKEN);
    },
    exchanged,
    ["resource", "audience"],
  );
  provider.registerGrantType(
    JWT_BEARER,
    async (ctx) => issue(provider, ctx, await verified(ctx, provider.issuer, assertionIssuers)),
    ["assertion", "resource", "scope"],
    ["resource"],
  );
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
