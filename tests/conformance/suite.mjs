// Runs the official suite and reads what it found: which checks it made, and how each of them ended.

import { spawn } from "node:child_process";
import { mkdirSync, readFileSync, readdirSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { LIMIT } from "./processes.mjs";

const packages = process.env.MCPAUTH_CONFORMANCE_PACKAGES;
const program = join(packages ?? "", "node_modules/@modelcontextprotocol/conformance/dist/index.js");

/** What the suite offers: `{server: [{name, versions}], client: [{name, versions}]}`. */
export async function list() {
  const { output } = await run(["list"], {});
  const offered = { server: [], client: [] };
  let leg;
  for (const line of output.split("\n")) {
    const [, heading] = line.match(/^(Server|Client|Authorization) .*scenarios/) ?? [];
    if (heading) leg = offered[heading.toLowerCase()];
    const [, name, versions] = line.match(/^ {2}- (\S+) \[(.*)\]$/) ?? [];
    if (name) leg?.push({ name, versions: versions.split(",") });
  }
  if (!offered.server.length || !offered.client.length) throw new Error(`the suite lists no scenarios:\n${output}`);
  return offered;
}

/** One client scenario: the suite plays authorization server and MCP server for our `client.mjs`. */
export async function runClient(name, version, folder, environment) {
  mkdirSync(folder, { recursive: true });
  // The suite hands the command to a shell, which finds the words that may hold blanks.
  const command = '"$MCPAUTH_CONFORMANCE_PACKAGES/node" "$MCPAUTH_CONFORMANCE_CLIENT"';
  const flags = ["client", "--command", command, "--scenario", name, "--timeout", String(LIMIT * 1000)];
  // Extensions are on no specification's timeline: by force they run with each.
  const result = await run([...flags, "--spec-version", version, "--force", "-o", folder], environment);
  const [found] = checksBelow(folder);
  if (!found) throw new Error(`${name} at ${version} left no results:\n${result.output}`);
  const [said, complained] = ["stdout.txt", "stderr.txt"].map((file) => readFileSync(join(dirname(found.file), file), "utf8"));
  return { passed: result.status === 0, checks: found.checks, said, complained };
}

/** All server scenarios of a version, or all that there are: `Map(scenario -> checks)`. */
export async function runServer(url, version, folder) {
  mkdirSync(folder, { recursive: true });
  const which = version ? ["--spec-version", version] : [];
  await run(["server", "--url", url, "--suite", "all", ...which, "-o", folder], {});
  const scenarios = new Map();
  for (const { file, checks } of checksBelow(folder)) {
    scenarios.set(basename(dirname(file)).replace(/^server-(.*)-\d{4}-\d\d-\d\dT[\d-]+Z$/, "$1"), checks);
  }
  return scenarios;
}

function checksBelow(folder) {
  const files = readdirSync(folder, { recursive: true }).filter((file) => basename(file) === "checks.json");
  return files.map((file) => ({ file: join(folder, file), checks: JSON.parse(readFileSync(join(folder, file), "utf8")) }));
}

function run(flags, environment) {
  return new Promise((resolve, reject) => {
    const child = spawn(join(packages, "node"), [program, ...flags], { env: { ...process.env, ...environment } });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text) => (output += text));
    child.once("error", reject);
    child.once("close", (status) => resolve({ status, output }));
  });
}
