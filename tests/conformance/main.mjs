// The conformance run, in the surroundings that `cluster/api/with` makes: see `run`.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { changedLines, tables, withTables } from "./document.mjs";
import { difference, judge } from "./judge.mjs";
import { open, save } from "./kubernetes.mjs";
import { LIMIT, startReference, startSidecar, stopAll } from "./processes.mjs";
import { list, runClient, runServer } from "./suite.mjs";

const NEWEST = "2026-07-28";
const PREVIOUS = "2025-11-25";
const VERSIONS = [NEWEST, PREVIOUS, "2025-06-18", "2025-03-26"];
/** The reference servers, and what each of them is asked for: versions before the newest have sessions. */
const EXTENSIONS = "extension";
const SERVERS = [
  { server: "stateless", versions: [...VERSIONS, EXTENSIONS], has: (name) => !name.startsWith("tasks-") },
  { server: "stateful", versions: [...VERSIONS, EXTENSIONS], has: (name) => !name.startsWith("tasks-") },
  { server: "tasks", versions: [EXTENSIONS], has: (name) => name.startsWith("tasks-") },
];
const NAMESPACE = "conformance";
/** Runs of the suite at a time; each is a Node.js process and starts another. */
const ABREAST = 4;

const here = dirname(fileURLToPath(import.meta.url));
const document = join(here, "../../docs/conformance.md");
const write = process.argv.includes("--write");
const only = process.argv.includes("--only") ? process.argv[process.argv.indexOf("--only") + 1] : undefined;
const chosen = ({ name }) => !only || name.includes(only);

const work = mkdtempSync(join(tmpdir(), "mcp-auth-conformance."));
let kept = true;
try {
  kept = !(await main());
} finally {
  await stopAll();
  if (kept) say(`the suite's results and the logs are in ${work}`);
  else rmSync(work, { recursive: true });
}
process.exitCode = kept ? 1 : 0;

/** Whether all is as it should be. */
async function main() {
  const offered = await list();
  save(join(work, "api.json"));
  const api = open(join(work, "api.json"), NAMESPACE);
  await api.makeNamespace();
  const sidecar = await startSidecar(api, work);

  const clients = await clientScenarios(offered.client, sidecar);
  const servers = await serverScenarios(offered.server, sidecar, api);

  const faults = clients.flatMap(({ name, version, verdict }) => verdict.faults.map((fault) => `${name} at ${version}: ${fault}`));
  for (const { name, version, server, lines } of servers) {
    faults.push(...lines.map((line) => `${name} at ${version}, ${server} server: ${line}`));
  }
  for (const fault of faults) process.stderr.write(`  ${fault}\n`);
  if (only) return faults.length === 0;
  return asDocumented(tables(clients, servers, VERSIONS)) && faults.length === 0;
}

/** Every `auth/*` scenario at each version that it is for; extensions at the newest and the previous one. */
async function clientScenarios(offered, sidecar) {
  const runs = offered
    .filter(({ name }) => name.startsWith("auth/"))
    .filter(chosen)
    .flatMap(({ name, versions }) => (versions[0] === "extension" ? [NEWEST, PREVIOUS] : versions).map((version) => ({ name, version })));
  runs.sort((a, b) => VERSIONS.indexOf(a.version) - VERSIONS.indexOf(b.version));
  return step(`client scenarios (${runs.length} runs, about a minute)`, () =>
    abreast(runs, async ({ name, version }) => {
      const found = await runClient(name, version, join(work, `client-${version}`, name.replace("/", "-")), {
        MCPAUTH_CONFORMANCE_CLIENT: join(here, "client.mjs"),
        MCPAUTH_CONFORMANCE_API: join(work, "api.json"),
        MCPAUTH_CONFORMANCE_NAMESPACE: NAMESPACE,
        MCPAUTH_CONFORMANCE_SIDECAR: sidecar,
      });
      const verdict = judge(name, { ...found, report: parse(found.said) });
      if (!parse(found.said)) verdict.faults.push(`our client said nothing of use: ${found.said}${found.complained}`);
      return { name, version, verdict, reason: parse(found.said)?.reason };
    }),
  );
}

/** Every server scenario at each version, straight and through the sidecar, against each server that has it. */
async function serverScenarios(offered, sidecar, api) {
  const selected = offered.filter(chosen);
  if (!selected.length) return [];
  const runs = [];
  for (const { server, versions, has } of SERVERS) {
    const straight = await startReference(server, work);
    await api.apply("secrets", secret(`reference-${server}`));
    await api.apply("mcpserverauths", resource(`reference-${server}`, straight));
    const through = `${sidecar}/reference_${server}/mcp`;
    await served(through);
    runs.push(...versions.map((version) => ({ server, version, has, straight, through })));
  }
  return step(`server scenarios (${runs.length} times straight and through the sidecar, about a minute)`, async () => {
    const compared = await abreast(runs, async ({ server, version, has, straight, through }) => {
      const folder = join(work, `server-${version}-${server}`);
      // Extensions are on no specification's timeline: they run where no version is asked for.
      const asked = version === EXTENSIONS ? undefined : version;
      const there = await runServer(straight, asked, join(folder, "straight"));
      const here = await runServer(through, asked, join(folder, "through"));
      return selected
        .filter(({ name, versions }) => versions.includes(version) && has(name))
        .map(({ name }) => {
          const [expected, found] = [there.get(name) ?? missing(name), here.get(name) ?? missing(name)];
          return { name, version, server, straight: expected, through: found, lines: difference(expected, found) };
        });
    });
    return compared.flat();
  });
}

function missing(name) {
  return [{ id: name, status: "FAILURE", description: "the suite could not run it" }];
}

function secret(name) {
  const stringData = { "client-secret": process.env.MCPAUTH_TEST_OAUTH_SECRET };
  return { apiVersion: "v1", kind: "Secret", metadata: { name }, stringData };
}

function resource(name, url) {
  const oauth2 = {
    tokenUrl: `${process.env.MCPAUTH_TEST_OAUTH}/token`,
    allowInsecureHttp: true,
    clientId: "litellm",
    clientAuthentication: { method: "ClientSecretBasic", clientSecretRef: { name, key: "client-secret" } },
  };
  const spec = { server: { name: name.replaceAll("-", "_"), url, allowInsecureHttp: true }, oauth2 };
  return { apiVersion: "mcpauth.dev/v1alpha1", kind: "McpServerAuth", metadata: { name }, spec };
}

async function served(url) {
  let status;
  for (const end = Date.now() + LIMIT * 1000; Date.now() < end; ) {
    ({ status } = await fetch(url, { method: "OPTIONS" }));
    if (status !== 404 && status < 500) return;
    await sleep(100);
  }
  throw new Error(`the sidecar does not serve ${url} within ${LIMIT} s: ${status}`);
}

function asDocumented(now) {
  const before = readFileSync(document, "utf8");
  const after = withTables(before, now);
  if (after === before) return true;
  for (const line of changedLines(before, after)) process.stderr.write(`  ${line}\n`);
  if (write) writeFileSync(document, after);
  say(write ? "docs/conformance.md has the new results" : "the results are not those of docs/conformance.md; if they should be, run tests/conformance/run --write");
  return write;
}

function parse(said) {
  try {
    return JSON.parse(said);
  } catch {
    return undefined;
  }
}

/** Results in the order of the items, at most ABREAST of them at a time. */
async function abreast(items, act) {
  const done = [];
  const waiting = [...items.entries()];
  const work = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) done[next[0]] = await act(next[1]);
  };
  await Promise.all(Array.from({ length: ABREAST }, work));
  return done;
}

async function step(what, act) {
  say(what);
  const began = Date.now();
  const result = await act();
  say(`  ${Math.round((Date.now() - began) / 1000)} s`);
  return result;
}

function say(what) {
  process.stderr.write(`\x1b[1m==>\x1b[0m ${what}\n`);
}
