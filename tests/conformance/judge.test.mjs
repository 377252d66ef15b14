import assert from "node:assert/strict";
import { test } from "node:test";
import { changedLines, tables, withTables } from "./document.mjs";
import { difference, judge, results, tokenRequests } from "./judge.mjs";

const check = (id, status, details) => ({ id, status, details, description: "d" });
const tokenRequest = (scope) =>
  check("incoming-auth-request", "INFO", { method: "POST", path: "/token", body: { grant_type: "client_credentials", scope } });
const issued = { client: "served", reason: "Issued" };

test("a check that was made twice counts with its worse result, and what only informs does not count", () => {
  const found = results([check("a", "FAILURE"), check("a", "SUCCESS"), check("b", "INFO"), check("c", "SUCCESS")]);
  assert.deepEqual([...found], [["a", "FAILURE"], ["c", "SUCCESS"]]);
});

test("a check that fails without a reason known is a fault", () => {
  const verdict = judge("auth/any", { passed: false, checks: [check("valid-bearer-token", "FAILURE")], report: issued });
  assert.match(verdict.faults[0], /^valid-bearer-token: FAILURE/);
});

test("a check that no machine can meet is told, and is no fault", () => {
  const checks = [check("token-request", "SUCCESS"), check("authorization-request", "FAILURE")];
  const verdict = judge("auth/any", { passed: false, checks, report: issued });
  assert.deepEqual([verdict.result, verdict.unmet, verdict.faults], ["1 of 2", ["authorization-request"], []]);
});

test("a client that is not served is a fault, but where nobody may be", () => {
  const run = (name) => judge(name, { passed: false, checks: [tokenRequest("mcp:basic")], report: { client: "503 Error: none" } });
  assert.deepEqual(run("auth/metadata-default").faults, ["the client is not served: 503 Error: none"]);
  assert.deepEqual(run("auth/scope-from-www-authenticate").faults, []);
});

test("a check that the run itself meets does not make a scenario pass", () => {
  const checks = [check("complete-flow-token-exchange", "SUCCESS"), check("complete-flow-jwt-bearer", "SUCCESS")];
  const verdict = judge("auth/enterprise-managed-authorization", { passed: true, checks, report: issued });
  assert.deepEqual([verdict.result, verdict.faults], ["1 of 2", []]);
});

test("a token request to a server that must not be asked is a fault, though the suite passes it", () => {
  const quiet = judge("auth/resource-mismatch", { passed: true, checks: [check("resource-mismatch-rejected", "SUCCESS")], report: issued });
  assert.deepEqual(quiet.faults, []);
  const asked = judge("auth/resource-mismatch", { passed: true, checks: [tokenRequest("a")], report: issued });
  assert.match(asked.faults[0], /^expected no token request/);
});

test("scopes are compared as sets, and other scopes are a fault", () => {
  const run = (scope) => judge("auth/scope-from-scopes-supported", { passed: true, checks: [tokenRequest(scope)], report: issued });
  assert.deepEqual(run("mcp:write mcp:read mcp:basic").faults, []);
  assert.equal(run("mcp:basic").faults.length, 1);
  assert.equal(run(undefined).faults.length, 1);
});

test("a step-up that drops a scope or does not come is a fault", () => {
  const run = (...scopes) => judge("auth/scope-step-up", { passed: true, checks: scopes.map(tokenRequest), report: issued });
  assert.deepEqual(run("mcp:basic", "mcp:basic mcp:write").faults, []);
  assert.equal(run("mcp:basic", "mcp:write").faults.length, 1);
  assert.equal(run("mcp:basic").faults.length, 1);
});

test("token requests are found where the suite's server does not log them", () => {
  assert.deepEqual(tokenRequests([check("token-request", "SUCCESS", { grantType: "g" })]), [{ grant: "g" }]);
});

test("a check that is missing, new or ends otherwise through the sidecar is a difference, another order is not", () => {
  const straight = [check("a", "SUCCESS"), check("b", "FAILURE")];
  assert.deepEqual(difference(straight, [...straight].reverse()), []);
  assert.equal(difference(straight, [check("a", "SUCCESS")]).length, 1);
  assert.equal(difference(straight, [...straight, check("a", "SUCCESS")]).length, 1);
  assert.equal(difference(straight, [check("a", "FAILURE"), check("b", "FAILURE")]).length, 2);
});

test("a result that changes shows in the document", () => {
  const run = (faulty) => {
    const checks = [check("token-request", faulty ? "FAILURE" : "SUCCESS")];
    const verdict = judge("auth/any", { passed: !faulty, checks, report: issued });
    return tables([{ name: "auth/any", version: "1", verdict, reason: "Issued" }], [], ["1"]);
  };
  const empty = "# Title\n\n<!-- From here to the end `make conformance` writes. -->\n";
  const document = withTables(empty, run(false));
  assert.equal(withTables(document, run(false)), document);
  assert.ok(changedLines(document, withTables(document, run(true))).length > 0);
  assert.throws(() => withTables("# Title\n", run(false)), /no line/);
});
