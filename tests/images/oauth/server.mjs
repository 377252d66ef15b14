// A real authorization server, oidc-provider, that issues signed JWT access tokens for any `resource` by
// client_credentials. The client may have two secrets at once, as during a rotation; the claim `credential` of a
// token tells which one was used.
//
// Environment: PORT, HOST, ISSUER (its own URL), CLIENT_ID, CLIENT_SECRETS (JSON array), TOKEN_SECONDS.
// PUT /test/secrets with a JSON array changes the secrets; GET /test/requests answers counts of token requests.

import { createServer } from 'node:http';
import { generateKeyPairSync, randomUUID, timingSafeEqual, createHash } from 'node:crypto';
import Provider from 'oidc-provider';

const { PORT = '9000', HOST = '0.0.0.0', ISSUER, CLIENT_ID, CLIENT_SECRETS, TOKEN_SECONDS = '300' } = process.env;
let secrets = JSON.parse(CLIENT_SECRETS);
// The n-th secret that this server ever had is the credential `secret-n`.
const known = [...secrets];
const requests = {};

const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
const key = { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), alg: 'RS256', use: 'sig' };

const methods = { [CLIENT_ID]: 'client_secret_basic', [`${CLIENT_ID}-post`]: 'client_secret_post' };
const provider = new Provider(ISSUER, {
  jwks: { keys: [key] },
  clients: Object.entries(methods).map(([client_id, method]) => ({
    client_id,
    client_secret: 'decided by compareClientSecret below',
    token_endpoint_auth_method: method,
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
  })),
  cookies: { keys: [randomUUID()] },
  scopes: ['tools'],
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_ctx, resource) => ({
        scope: 'tools',
        audience: resource,
        accessTokenTTL: Number(TOKEN_SECONDS),
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: 'RS256' } },
      }),
    },
  },
  extraTokenClaims: (ctx) => ({ credential: ctx.credential }),
});

const digest = (text) => createHash('sha256').update(text).digest();
provider.Client.prototype.compareClientSecret = function compareClientSecret(actual) {
  const used = secrets.find((secret) => timingSafeEqual(digest(secret), digest(actual)));
  if (used === undefined) return false;
  Provider.ctx.credential = `secret-${known.indexOf(used) + 1}`;
  return true;
};

provider.use(async (ctx, next) => {
  await next();
  if (ctx.path === '/token') {
    const outcome = ctx.status === 200 ? ctx.credential : ctx.body?.error ?? String(ctx.status);
    requests[outcome] = (requests[outcome] ?? 0) + 1;
    console.log(JSON.stringify({ event: 'token request', outcome, resource: ctx.oidc?.params?.resource }));
  }
});

const oauth = provider.callback();
const server = createServer(async (request, response) => {
  if (!request.url.startsWith('/test/')) return oauth(request, response);
  if (request.method === 'PUT' && request.url === '/test/secrets') {
    let body = '';
    for await (const chunk of request) body += chunk;
    secrets = JSON.parse(body);
    known.push(...secrets.filter((secret) => !known.includes(secret)));
  }
  response.setHeader('content-type', 'application/json');
  return response.end(JSON.stringify({ secrets: secrets.length, requests }));
});
server.listen(Number(PORT), HOST, () => console.log(JSON.stringify({ event: 'listening', port: server.address().port })));
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(0));
