// What runs beside the suite: the sidecar, and the reference server that the server scenarios test.

import { spawn } from "node:child_process";
import { closeSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { createServer as createHttpServer, request as httpRequest } from "node:http";
import { createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

/** The bound, in seconds, of all that a run waits for: only a run that fails takes so long. */
export const LIMIT = 300;

const running = [];

/** The sidecar of a pod that only the API server knows. Resolves to the URL that LiteLLM would call. */
export async function startSidecar(api, folder) {
  const object = {
    metadata: {
      name: "litellm-0",
      labels: { "app.kubernetes.io/name": "litellm" },
      annotations: { "mcpauth.dev/injected": "by the conformance run" },
    },
    spec: { serviceAccountName: "default", containers: [{ name: "litellm", image: "litellm" }] },
  };
  // Without a controller manager nobody else makes it.
  await api.create("serviceaccounts", { metadata: { name: "default" } }).catch(() => {});
  const { metadata: pod } = await api.create("pods", object);
  const { status: token } = await api.create("serviceaccounts/default/token", {
    spec: {
      audiences: ["mcp-auth-operator"],
      expirationSeconds: 3600,
      boundObjectRef: { kind: "Pod", apiVersion: "v1", name: pod.name, uid: pod.uid },
    },
  });
  writeFileSync(join(folder, "token"), token.token, { mode: 0o600 });
  const certificates = await api.get("secrets", "mcp-auth-operator-tls", process.env.MCPAUTH_TEST_OPERATOR_NAMESPACE);
  const [outbound, health] = [await freePort(), await freePort()];
  await start("sidecar", `http://127.0.0.1:${health}/startup`, folder, process.env.MCPAUTH_TEST_SIDECAR_BINARY, ["serve"], {
    MCPAUTH_OUTBOUND: `127.0.0.1:${outbound}`,
    MCPAUTH_HEALTH: `127.0.0.1:${health}`,
    MCPAUTH_OVERLAY: join(folder, "overlay.yaml"),
    MCPAUTH_OPERATOR: process.env.MCPAUTH_TEST_OPERATOR,
    MCPAUTH_OPERATOR_CA: Buffer.from(certificates.data["ca.crt"], "base64").toString(),
    MCPAUTH_TOKEN_FILE: join(folder, "token"),
    MCPAUTH_POD_NAMESPACE: pod.namespace,
    MCPAUTH_POD_NAME: pod.name,
    MCPAUTH_POD_UID: pod.uid,
    MCPAUTH_START_TIMEOUT_SECONDS: "1",
    MCPAUTH_LOG: "debug,hyper=info,h2=info,rustls=info",
  });
  return startLitellm(outbound, readFileSync(join(folder, "outbound-secret"), "utf8"));
}

/** What LiteLLM does to each request by its overlay: it shows the sidecar's secret. Everything else passes as it is. */
function startLitellm(outbound, secret) {
  const server = createHttpServer((request, response) => {
    const { method, url, rawHeaders } = request;
    const headers = [...rawHeaders, "mcpauth-outbound-secret", secret];
    const onward = httpRequest({ host: "127.0.0.1", port: outbound, method, path: url, headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.rawHeaders);
      response.flushHeaders();
      answer.pipe(response);
      answer.once("error", () => response.destroy());
    });
    onward.once("error", () => response.destroy());
    response.once("close", () => onward.destroy());
    request.pipe(onward);
  });
  // Event streams stay silent for as long as they like.
  server.requestTimeout = 0;
  // It ends with the run.
  server.unref();
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => resolve(`http://127.0.0.1:${server.address().port}`));
  });
}

/** A reference server: `stateless` and `stateful` are the Go SDK's, `tasks` is our own, and each resolves to its URL. */
export async function startReference(kind, folder) {
  const address = `127.0.0.1:${await freePort()}`;
  const packages = process.env.MCPAUTH_CONFORMANCE_PACKAGES;
  const [program, ...flags] =
    kind === "tasks"
      ? [join(packages, "node"), fileURLToPath(new URL("tasks.mjs", import.meta.url)), address]
      : [join(packages, "everything-server"), `-http=${address}`, `-stateless=${kind === "stateless"}`];
  await start(`reference-${kind}`, `http://${address}/`, folder, program, flags, {});
  return `http://${address}/mcp`;
}

export async function stopAll() {
  const ended = running.map((child) => new Promise((resolve) => child.once("exit", resolve)));
  for (const child of running) child.kill("SIGKILL");
  await Promise.all(ended);
}

async function start(name, probe, folder, program, flags, environment) {
  const log = openSync(join(folder, `${name}.log`), "w");
  const child = spawn(program, flags, { env: { ...process.env, ...environment }, stdio: ["ignore", log, log] });
  closeSync(log);
  let failed;
  child.once("error", (error) => (failed = error.message));
  child.once("exit", (status) => {
    failed ??= `it ended with ${status}`;
    running.splice(running.indexOf(child), 1);
  });
  running.push(child);
  for (const end = Date.now() + LIMIT * 1000; Date.now() < end && !failed; ) {
    const answer = await fetch(probe).catch(() => undefined);
    await answer?.body?.cancel();
    // Whatever the server says to a request that is none: it is there.
    if (answer && (answer.ok || !probe.endsWith("/startup"))) return;
    await sleep(100);
  }
  throw new Error(`${name} does not run: ${failed ?? `no answer within ${LIMIT} s`}; see ${join(folder, `${name}.log`)}`);
}

function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer().once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}
