// The client that the suite tests: a plain MCP client without any authentication of its own, with operator and sidecar
// between it and the server. The suite starts it with the server's URL as its last argument; it applies the resource
// that leads there, calls the server through the sidecar, and prints what came of it as one line of JSON.

import { createRequire } from "node:module";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { open } from "./kubernetes.mjs";
import { LIMIT } from "./processes.mjs";
import { credentials, resourceName } from "./scenarios.mjs";

const require = createRequire(join(process.env.MCPAUTH_CONFORMANCE_PACKAGES, "package.json"));
const { Client, StreamableHTTPClientTransport } = require("@modelcontextprotocol/client");

const url = process.argv.at(-1);
const scenario = process.env.MCP_CONFORMANCE_SCENARIO;
const version = process.env.MCP_CONFORMANCE_PROTOCOL_VERSION;
const api = open(process.env.MCPAUTH_CONFORMANCE_API, process.env.MCPAUTH_CONFORMANCE_NAMESPACE);
const name = resourceName(scenario);
const server = name.replaceAll(/[^a-z0-9]/g, "_");

/** What a client is told while the sidecar has no route or token yet; the newest version of the protocol hides the status. */
const NOT_YET = /^(404|503|ERA_NEGOTIATION_FAILED) /;

/** Where the suite's server refuses the token: calls go on, as LiteLLM's do, until the status says this. */
const SETTLES = {
  "auth/scope-from-www-authenticate": "InsufficientScope",
  "auth/scope-step-up": "InsufficientScope",
  "auth/scope-retry-limit": "InsufficientScope",
  "auth/authorization-server-migration": "IssuerChanged",
};

/** What a resource lets a server demand: without it a demanded scope is requested by nobody. */
const STEP_UP_ALLOWED_SCOPES = { "auth/scope-step-up": ["mcp:basic", "mcp:write"] };

// The suite ends only the shell around us, at the limit.
const end = Date.now() + LIMIT * 1000 - 10_000;
setTimeout(() => process.exit(2), LIMIT * 1000 - 2000).unref();

await apply();
const before = await until(decided, "a token, or the reason why there is none");
const called = await callOnceServed();
while (SETTLES[scenario] && Date.now() < end && !(await settled())) {
  await sleep(500);
  await call();
}
const { status } = await api.get("mcpserverauths", name);
await remove();
const { reason, message } = condition(status, "TokenIssued") ?? {};
console.log(JSON.stringify({ client: called, reason, message, lastError: status.token?.lastError, before: condition(before, "TokenIssued")?.reason }));
process.exit(called === "served" ? 0 : 1);

async function apply() {
  const context = JSON.parse(process.env.MCP_CONFORMANCE_CONTEXT ?? "{}");
  const { oauth2, secret } = await credentials(scenario, url, context);
  const stepUpAllowedScopes = STEP_UP_ALLOWED_SCOPES[scenario];
  await api.apply("secrets", { apiVersion: "v1", kind: "Secret", metadata: { name }, stringData: secret });
  const spec = { server: { name: server, url, allowInsecureHttp: true }, oauth2: { ...oauth2, stepUpAllowedScopes } };
  await api.apply("mcpserverauths", { apiVersion: "mcpauth.dev/v1alpha1", kind: "McpServerAuth", metadata: { name }, spec });
}

async function remove() {
  await api.remove("mcpserverauths", name);
  await api.remove("secrets", name);
}

/** The status, once it is as wanted. */
async function until(wanted, what) {
  let status;
  while (Date.now() < end) {
    ({ status } = await api.get("mcpserverauths", name));
    if (status && wanted(status)) return status;
    await sleep(100);
  }
  throw new Error(`no ${what} in time: ${JSON.stringify(status)}`);
}

/** The status may know of a token a moment before the sidecar knows of it, or of the server; it then answers by itself. */
async function callOnceServed() {
  let called = await call();
  while (Date.now() < end && NOT_YET.test(called) && (await issued())) {
    await sleep(100);
    called = await call();
  }
  return called;
}

async function issued() {
  const { status } = await api.get("mcpserverauths", name);
  return condition(status, "TokenIssued")?.status === "True";
}

async function settled() {
  const { status } = await api.get("mcpserverauths", name);
  return SETTLES[scenario] === condition(status, "TokenIssued")?.reason;
}

/** Whether there is a token that the sidecar has, or will be none as things stand. */
function decided({ sidecars, ...status }) {
  const refused = [condition(status, "SecretsResolved"), condition(status, "TokenIssued")].some(
    (found) => found?.status === "False" && found.reason !== "SecretNotFound",
  );
  const served = condition(status, "TokenIssued")?.status === "True" && sidecars?.total > 0 && sidecars.synced === sidecars.total;
  return refused || served;
}

function condition(status, type) {
  return status?.conditions?.find((found) => found.type === type);
}

/** Lists the tools and calls the one that there is: `served`, or what the client was told. */
async function call() {
  const versions = version === "2026-07-28" ? { mode: { pin: version } } : { mode: "legacy" };
  const options = { versionNegotiation: versions };
  if (versions.mode === "legacy") options.supportedProtocolVersions = [version];
  const client = new Client({ name: "conformance", version: "1.0.0" }, options);
  try {
    await client.connect(new StreamableHTTPClientTransport(new URL(`${process.env.MCPAUTH_CONFORMANCE_SIDECAR}/${server}/mcp`)));
    await client.listTools();
    const { isError, content, _meta } = await client.callTool({ name: "test-tool", arguments: {} });
    // The sidecar tells of a call that it refuses by a result, with the status that a listing gets.
    if (isError) return `${_meta?.["mcpauth.dev/error"]?.status ?? ""} ToolError: ${content?.[0]?.text}`.trim();
    return "served";
  } catch (error) {
    return `${error.status ?? error.code ?? ""} ${error.name}: ${error.message}`.trim();
  } finally {
    await client.close().catch(() => {});
  }
}
