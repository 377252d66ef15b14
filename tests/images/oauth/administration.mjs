// What tests turn while the server runs. Listens on loopback only, since it has no authentication:
//
//   GET  /state                   totals of the token requests, how many are under way and at most were, generations
//                                 accepted, lifetime and fault in force
//   POST /clients/ID/rotate       a new secret beside the old ones: {generation, secret}
//   POST /clients/ID/retire       {generation}: refused from now on
//   POST /lifetime                {seconds} of the tokens issued from now on
//   POST /fault                   {seconds, status, body, retryAfter, expiresIn}, all optional: token requests wait,
//                                 then fail so, or succeed with that expires_in; {} ends it for requests to come

import { createServer } from "node:http";

export function createAdministration(clients, state) {
  return createServer(async (request, response) => {
    const answer = (status, content) => {
      response.writeHead(status, { "content-type": "application/json" });
      response.end(JSON.stringify(content));
    };
    try {
      const result = act(request.method, new URL(request.url, "http://localhost").pathname, await json(request));
      answer(result ? 200 : 404, result ?? { error: "there is no such thing; see administration.mjs" });
    } catch (error) {
      answer(400, { error: error.message });
    }
  });

  function act(method, path, body) {
    const [, noun, id, verb] = path.split("/");
    if (method === "GET" && noun === "state") {
      return { ...state, clients: Object.fromEntries(clients.ids().map((each) => [each, clients.accepted(each)])) };
    }
    if (method !== "POST") return undefined;
    if (noun === "clients" && verb === "rotate") return clients.rotate(id);
    if (noun === "clients" && verb === "retire") return clients.retire(id, body.generation);
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
