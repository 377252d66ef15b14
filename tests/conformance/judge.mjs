// What a run of the suite comes to. Pure, and tested in judge.test.mjs.

import { ALSO, BY_THE_RUN, NOT_APPLICABLE, NOT_SERVED, UNMET } from "./scenarios.mjs";

const SEVERITY = ["SUCCESS", "WARNING", "FAILURE"];

/** Each check once, in the order of its first appearance, with the worst of its results; what only informs is left out. */
export function results(checks) {
  const found = new Map();
  for (const { id, status } of checks) {
    if (!SEVERITY.includes(status)) continue;
    const before = found.get(id) ?? "SUCCESS";
    found.set(id, SEVERITY.indexOf(status) > SEVERITY.indexOf(before) ? status : before);
  }
  return found;
}

/** The token requests that the suite's authorization servers logged. */
export function tokenRequests(checks) {
  const logged = checks.filter(
    ({ id, details }) => id === "incoming-auth-request" && details?.method === "POST" && details.path.endsWith("/token"),
  );
  if (logged.length) return logged.map(({ details: { body } }) => ({ grant: body.grant_type, scope: body.scope }));
  // Some of them do not log.
  return checks.filter(({ id }) => id === "token-request").map(({ details }) => ({ grant: details?.grantType }));
}

/** The access tokens that they handed out. They are the suite's own and open nothing. */
export function tokens(checks) {
  const answers = checks.filter(({ id, details }) => id === "outgoing-auth-response" && details.path.endsWith("/token"));
  return answers.map(({ details }) => details.body?.access_token).filter(Boolean);
}

/**
 * A client scenario: `{result, share, unmet, also, faults}`. `passed` is the suite's own verdict, `report` what our client said.
 * Faults are what cannot be explained by the client being a machine.
 */
export function judge(name, { passed, checks, report }) {
  const found = results(checks);
  const ours = BY_THE_RUN[name] ?? [];
  const unmet = [...found.keys()].filter((id) => found.get(id) !== "SUCCESS" || ours.includes(id));
  const faults = unmet.filter((id) => !UNMET[id]).map((id) => `${id}: ${found.get(id)}, ${message(checks, id)}`);
  if (report && !NOT_SERVED.includes(name) && report.client !== "served") faults.push(`the client is not served: ${report.client}`);
  let also;
  try {
    also = ALSO[name]?.({ tokenRequests: tokenRequests(checks), tokens: tokens(checks), ...report });
  } catch (error) {
    faults.push(error.message);
  }
  const share = `${found.size - unmet.length} of ${found.size}`;
  const result = NOT_APPLICABLE[name] ? "does not apply" : passed && !unmet.length ? "pass" : share;
  return { result, share, unmet, also, faults };
}

/** How results through the sidecar differ from those straight: nothing if each check is there and ended the same. */
export function difference(straight, through) {
  const [there, here] = [tally(straight), tally(through)];
  const lines = [];
  for (const check of new Set([...there.keys(), ...here.keys()])) {
    const [expected, found] = [there.get(check) ?? 0, here.get(check) ?? 0];
    if (expected !== found) lines.push(`${check}: ${times(expected)} straight, ${times(found)} through the sidecar`);
  }
  return lines;
}

function tally(checks) {
  const counts = new Map();
  for (const { id, status } of checks) counts.set(`${id} ${status}`, (counts.get(`${id} ${status}`) ?? 0) + 1);
  return counts;
}

function times(count) {
  return ["never", "once"][count] ?? `${count} times`;
}

function message(checks, id) {
  const { errorMessage, description } = checks.findLast((check) => check.id === id && check.status !== "SUCCESS");
  return errorMessage ?? description;
}
