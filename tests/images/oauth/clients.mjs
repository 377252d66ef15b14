// The registered clients and the generations of their secrets: which are accepted, and which one was used.

import { randomBytes, timingSafeEqual, createHash } from "node:crypto";

const digest = (secret) => createHash("sha256").update(secret).digest();

export class Clients {
  #secrets = new Map(); // client id -> generation -> digest of the secret

  constructor(clients) {
    for (const { id, secret } of clients) {
      this.#secrets.set(id, new Map(secret ? [[1, digest(secret)]] : []));
    }
  }

  // The generation that this secret is of, if it is accepted.
  generation(id, secret) {
    const presented = digest(secret);
    for (const [generation, accepted] of this.#secrets.get(id) ?? []) {
      if (timingSafeEqual(presented, accepted)) return generation;
    }
    return undefined;
  }

  // A new secret, accepted beside the others until they are retired.
  rotate(id) {
    const generations = this.#known(id);
    const secret = randomBytes(24).toString("base64url");
    const generation = Math.max(0, ...generations.keys()) + 1;
    generations.set(generation, digest(secret));
    return { generation, secret };
  }

  // From now on secrets of this generation are refused.
  retire(id, generation) {
    if (!this.#known(id).delete(generation)) throw new Error(`client ${id} has no generation ${generation}`);
    return { accepted: this.accepted(id) };
  }

  accepted(id) {
    return [...this.#known(id).keys()];
  }

  ids() {
    return [...this.#secrets.keys()];
  }

  #known(id) {
    const generations = this.#secrets.get(id);
    if (!generations) throw new Error(`there is no client ${id}`);
    return generations;
  }
}
