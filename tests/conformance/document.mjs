// The tables of docs/conformance.md: made from a run, so that they cannot say what does not hold.

import { NOT_APPLICABLE, UNMET } from "./scenarios.mjs";
import { results } from "./judge.mjs";

const BEGIN = "<!-- From here to the end `make conformance` writes. -->";

/** The document with these tables in place of those that it has. */
export function withTables(document, tables) {
  const at = document.indexOf(BEGIN);
  if (at < 0) throw new Error(`the document has no line ${BEGIN}`);
  return `${document.slice(0, at)}${BEGIN}\n\n${tables}\n`;
}

/** Lines that are in one text only, for a person to read. */
export function changedLines(before, after) {
  const [old, now] = [before.split("\n"), after.split("\n")];
  return [
    ...old.filter((line) => !now.includes(line)).map((line) => `- ${line}`),
    ...now.filter((line) => !old.includes(line)).map((line) => `+ ${line}`),
  ];
}

/**
 * `clients`: [{name, version, verdict, reason}]; `servers`: [{name, version, server, straight, through, lines}];
 * `versions` of the specification, the newest first.
 */
export function tables(clients, servers, versions) {
  return [clientTable(clients), unmetTable(clients), serverTable(servers, versions)].join("\n\n");
}

function clientTable(clients) {
  const rows = new Map();
  for (const { name, version, verdict, reason } of clients) {
    const { result, share, unmet, also } = verdict;
    const rest = unmet.length ? `not met: ${unmet.map((id) => `\`${id}\``).join(", ")}` : "";
    const why = [NOT_APPLICABLE[name], also, NOT_APPLICABLE[name] ? "" : rest].filter(Boolean).join("; ");
    const shown = result === "pass" ? `**pass** (${share})` : result;
    const row = `| ${shown} | \`${reason}\` | ${why} |`;
    const key = `${name} ${row}`;
    if (!rows.has(key)) rows.set(key, { name, row, versions: [] });
    rows.get(key).versions.push(version);
  }
  const passed = new Set(clients.filter(({ verdict }) => verdict.result === "pass").map(({ name }) => name));
  const lines = [...rows.values()].map(({ name, row, versions }) => `| \`${name}\` | ${versions.join(", ")} ${row}`);
  return [
    "## Client scenarios",
    "",
    `${new Set(clients.map(({ name }) => name)).size} scenarios, ${clients.length} runs; ${passed.size} scenarios pass whole.`,
    "",
    "| scenario | versions | result: checks met | `TokenIssued` at the end | beside the checks |",
    "|---|---|---|---|---|",
    ...lines,
  ].join("\n");
}

function unmetTable(clients) {
  const unmet = clients.filter(({ name }) => !NOT_APPLICABLE[name]).flatMap(({ verdict }) => verdict.unmet);
  const lines = [...new Set(unmet)].sort().map((id) => `| \`${id}\` | ${UNMET[id] ?? "a fault"} |`);
  return ["Why checks are not met:", "", "| check | why |", "|---|---|", ...lines].join("\n");
}

function serverTable(servers, [newest, ...older]) {
  const names = [...new Set(servers.map(({ name }) => name))];
  const cell = (name, version) => {
    // Each version against the server that its era asks for; the other one is compared all the same.
    const before = older.includes(version) ? "stateful" : "stateless";
    const compared = servers.filter((run) => run.name === name && run.version === version);
    const found = compared.find(({ server }) => server === before) ?? compared[0];
    if (!found) return "";
    const [straight, through] = [met(found.straight), met(found.through)];
    return found.lines.length ? `${straight} ≠ ${through}` : `${straight} =`;
  };
  const columns = [newest, ...older, "extension"];
  const differing = servers.filter(({ lines }) => lines.length);
  return [
    "## Server scenarios",
    "",
    `${names.length} scenarios, ${servers.length} comparisons: ${servers.length - differing.length} are equal check by check. A cell has the checks met of those made`,
    "straight, and `=` where each of them ends the same through the sidecar.",
    "",
    `| scenario | ${columns.join(" | ")} |`,
    `|---|${columns.map(() => "---|").join("")}`,
    ...names.map((name) => `| \`${name}\` | ${columns.map((version) => cell(name, version)).join(" | ")} |`),
    ...differences(differing),
  ].join("\n");
}

function differences(servers) {
  if (!servers.length) return [];
  const rows = servers.map(({ name, lines }) => `| \`${name}\` | ${lines.join("; ")} |`);
  return ["", "What differs, each a fault:", "", "| scenario | checks |", "|---|---|", ...new Set(rows)];
}

function met(checks) {
  const found = [...results(checks).values()];
  return `${found.filter((status) => status === "SUCCESS").length} of ${found.length}`;
}
