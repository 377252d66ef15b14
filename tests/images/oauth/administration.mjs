// What tests turn while the server runs. Listens on loopback only, since it has no authentication:
//
//   GET  /state                   totals of the token requests, how many are under way and at most were, generations
//                                 accepted, lifetime and fault in force
//   POST /clients                 registers a client or changes its registration: {id, method, secret,
//                                 keys: [{pem, id, algorithm}] or jwksUri for private_key_jwt, subject for tls_client_auth,
//                                 certificate for self_signed_tls_client_auth, grants, scope, certificateBound,
//                                 dpopBound, nonce (of DPoP, demanded), opaque (tokens), lifetime}
//   GET  /clients/ID/requests     how the client authenticated and what it asked for, see record.mjs
//   POST /clients/ID/rotate       a new secret beside the old ones: {generation, secret}
//   POST /clients/ID/retire       {generation}: refused from now on
//   POST /clients/ID/fault        like /fault, for this client only
//   POST /users/NAME/token        {client}: an access token of this user, as a front end would have it: {token}; a
//                                 signed one for {resource}, if that is stated
//   POST /lifetime                {seconds} of the tokens issued from now on
//   POST /fault                   {seconds, status, body, retryAfter, expiresIn}, all optional: token requests wait,
//                                 then fail so, or succeed with that expires_in; {} ends it for requests to come

import { createServer } from "node:http";

export function createAdministration(clients, state, provider) {
  return createServer(async (request, response) => {
    const answer = (status, content) => {
      response.writeHead(status, { "content-type": "application/json" });
      response.end(JSON.stringify(content));
    };
    try {
      const result = await act(request.method, new URL(request.url, "http://localhost").pathname, await json(request));
      answer(result ? 200 : 404, result ?? { error: "there is no such thing; see administration.mjs" });
    } catch (error) {
      answer(400, { error: error.message });
    }
  });

  async function act(method, path, body) {
    const [, noun, id, verb] = path.split("/").map(decodeURIComponent);
    if (method === "GET" && noun === "state") {
      return { ...state, clients: Object.fromEntries(clients.ids().map((each) => [each, clients.accepted(each)])) };
    }
    if (method === "GET" && noun === "clients" && verb === "requests") return clients.requests(id);
    if (method !== "POST") return undefined;
    if (noun === "clients" && id === undefined) {
      const registered = clients.register(body);
      // Metadata that oidc-provider would refuse is better refused here than at the first token request.
      await provider.Client.find(body.id);
      return registered;
    }
    if (noun === "clients" && verb === "rotate") return clients.rotate(id);
    if (noun === "clients" && verb === "retire") return clients.retire(id, body.generation);
    if (noun === "clients" && verb === "fault") return clients.fail(id, Object.keys(body).length ? body : null);
    if (noun === "users" && verb === "token") {
      const client = await provider.Client.find(body.client);
      const token = new provider.AccessToken({ accountId: id, client, gty: "authorization_code", scope: "openid" });
      if (body.resource) {
        token.resourceServer = new provider.ResourceServer(body.resource, { scope: "openid", accessTokenFormat: "jwt" });
      }
      return { token: await token.save() };
    }
    if (noun === "lifetime") {
      if (!(body.seconds > 0)) throw new Error("seconds must be a positive number");
      state.lifetime = body.seconds;
      return { lifetime: state.lifetime };
    }
    if (noun === "fault") {
      state.fault = Object.keys(body).length ? body : null;
      return { fault: state.fault };
    }
    return undefined;
  }
}

async function json(request) {
  let text = "";
  for await (const chunk of request) text += chunk;
  return text ? JSON.parse(text) : {};
}
