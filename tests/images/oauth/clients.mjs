// The registered clients: how each may authenticate, the generations of its secret, and what it has asked for.

import { createHash, createPublicKey, randomBytes, timingSafeEqual, X509Certificate } from "node:crypto";

const digest = (secret) => createHash("sha256").update(secret).digest();
// Requests remembered for each client. Tests look at a few; a demo runs for hours.
const REMEMBERED = 200;

export class Clients {
  #clients = new Map(); // id -> {metadata, wishes, secrets: generation -> digest of the secret, requests, fault}

  constructor(clients) {
    for (const client of clients) this.register(client);
  }

  // Registers a client, or changes what it is registered with; its secrets and its requests are kept unless it is
  // new. See administration.mjs for the fields.
  register({ id, secret, nonce = false, opaque = false, lifetime, ...rest }) {
    if (!id) throw new Error("id must be set");
    const known = this.#clients.get(id);
    const secrets = secret ? new Map([[1, digest(secret)]]) : (known?.secrets ?? new Map());
    const metadata = registration(id, rest);
    const wishes = { nonce, opaque, lifetime };
    this.#clients.set(id, { metadata, wishes, secrets, requests: known?.requests ?? [], fault: null });
    return { id, method: metadata.token_endpoint_auth_method };
  }

  // What oidc-provider wants to know of a client.
  metadata(id) {
    return this.#clients.get(id)?.metadata;
  }

  // What this client was registered to get otherwise than others.
  wishes(id) {
    return this.#clients.get(id)?.wishes ?? {};
  }

  // The generation that this secret is of, if it is accepted.
  generation(id, secret) {
    const presented = digest(secret);
    for (const [generation, accepted] of this.#clients.get(id)?.secrets ?? []) {
      if (timingSafeEqual(presented, accepted)) return generation;
    }
    return undefined;
  }

  // A new secret, accepted beside the others until they are retired.
  rotate(id) {
    const { secrets } = this.#known(id);
    const secret = randomBytes(24).toString("base64url");
    const generation = Math.max(0, ...secrets.keys()) + 1;
    secrets.set(generation, digest(secret));
    return { generation, secret };
  }

  // From now on secrets of this generation are refused.
  retire(id, generation) {
    if (!this.#known(id).secrets.delete(generation)) throw new Error(`client ${id} has no generation ${generation}`);
    return { accepted: this.accepted(id) };
  }

  accepted(id) {
    return [...this.#known(id).secrets.keys()];
  }

  // Answers of the token endpoint to this client are replaced from now on; null ends it.
  fail(id, fault) {
    this.#known(id).fault = fault;
    return { fault };
  }

  fault(id) {
    return this.#clients.get(id)?.fault;
  }

  remember(id, request) {
    const requests = this.#clients.get(id)?.requests;
    requests?.push(request);
    if (requests?.length > REMEMBERED) requests.shift();
  }

  requests(id) {
    return this.#known(id).requests;
  }

  ids() {
    return [...this.#clients.keys()];
  }

  #known(id) {
    const client = this.#clients.get(id);
    if (!client) throw new Error(`there is no client ${id}`);
    return client;
  }
}

function registration(id, { method, grants, scope, keys, jwks, jwksUri, certificate, subject, certificateBound, dpopBound }) {
  const metadata = {
    client_id: id,
    grant_types: grants ?? ["client_credentials"],
    redirect_uris: [],
    response_types: [],
    // Both ways to send a secret are taken from a client that is registered for either.
    token_endpoint_auth_method: method ?? (keys || jwks ? "private_key_jwt" : "client_secret_basic"),
  };
  // Which secrets are accepted is decided above; this one only has to be there.
  if (metadata.token_endpoint_auth_method.startsWith("client_secret")) metadata.client_secret = "see clients.mjs";
  if (keys || jwks) metadata.jwks = jwks ?? { keys: keys.map(publicJwk) };
  if (jwksUri) metadata.jwks_uri = jwksUri;
  if (certificate) metadata.jwks = { keys: [certificateJwk(certificate)] };
  if (subject) metadata.tls_client_auth_subject_dn = subject;
  if (scope) metadata.scope = scope;
  if (certificateBound) metadata.tls_client_certificate_bound_access_tokens = true;
  if (dpopBound) metadata.dpop_bound_access_tokens = true;
  return metadata;
}

function publicJwk({ pem, id, algorithm }) {
  return { ...createPublicKey(pem).export({ format: "jwk" }), use: "sig", kid: id, alg: algorithm };
}

function certificateJwk(pem) {
  const { publicKey, raw } = new X509Certificate(pem);
  return { ...publicKey.export({ format: "jwk" }), use: "sig", x5c: [raw.toString("base64")] };
}
