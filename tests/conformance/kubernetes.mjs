// The API server: as much of a client as the conformance run needs.

import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { request } from "node:https";

/** Writes where the API server is, and how it is reached, into a file for `open`. */
export function save(file) {
  const text = execFileSync("kubectl", ["config", "view", "--raw", "--flatten", "--output", "json"], { encoding: "utf8" });
  const { clusters, users } = JSON.parse(text);
  const { server, "certificate-authority-data": ca } = clusters[0].cluster;
  const reached = { server, ca: Buffer.from(ca, "base64").toString(), token: users[0].user.token };
  writeFileSync(file, JSON.stringify(reached), { mode: 0o600 });
}

/** The objects of one namespace. */
export function open(file, namespace) {
  const reached = JSON.parse(readFileSync(file, "utf8"));
  const groups = { mcpserverauths: "apis/mcpauth.dev/v1alpha1" };
  const path = (kind, name = "", of = namespace) =>
    `/${groups[kind] ?? "api/v1"}/namespaces/${of}/${kind}${name && `/${name}`}`;

  return {
    makeNamespace: () => call("POST", "/api/v1/namespaces", { metadata: { name: namespace } }),
    create: (kind, object) => call("POST", path(kind), object),
    apply: (kind, object) => call("PATCH", `${path(kind, object.metadata.name)}?fieldManager=conformance&force=true`, object),
    get: (kind, name, of) => call("GET", path(kind, name, of)),
    remove: (kind, name) => call("DELETE", path(kind, name)),
  };

  function call(method, url, body) {
    const headers = { authorization: `Bearer ${reached.token}`, accept: "application/json" };
    if (body) headers["content-type"] = method === "PATCH" ? "application/apply-patch+yaml" : "application/json";
    return new Promise((resolve, reject) => {
      const sent = request(`${reached.server}${url}`, { method, headers, ca: reached.ca }, async (response) => {
        let text = "";
        for await (const chunk of response) text += chunk;
        if (response.statusCode < 300) resolve(JSON.parse(text));
        else reject(new Error(`${method} ${url}: ${response.statusCode} ${JSON.parse(text).message ?? text}`));
      });
      sent.on("error", reject);
      sent.end(body && JSON.stringify(body));
    });
  }
}
