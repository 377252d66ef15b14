// A server with the tasks extension (SEP-2663), for the suite's `tasks-*` scenarios: the reference server does not have
// it. `tasks.mjs ADDRESS:PORT` serves until it is ended; stateless, for 2026-07-28, with the tools that the suite calls.

import { randomUUID } from "node:crypto";
import { createServer } from "node:http";

const EXTENSION = "io.modelcontextprotocol/tasks";
const VERSION = "2026-07-28";
const CODES = { header: -32020, capability: -32021, method: -32601, params: -32602 };

/** Tools: `ask` is what a task wants to know before it runs, `seconds` how long it runs. */
const TOOLS = {
  greet: { run: ({ name }) => text(`Hello, ${name}!`) },
  slow_compute: { task: "optional", seconds: ({ seconds }) => seconds, run: ({ label }) => text(`computed ${label}`) },
  failing_job: { task: "required", seconds: () => 1, run: () => ({ ...text("it failed"), isError: true }) },
  protocol_error_job: { task: "required", seconds: () => 0, run: () => { throw new Error("it broke"); } },
  confirm_delete: { task: "optional", seconds: () => 0, ask: ["confirm"], run: () => text("deleted") },
  multi_input: { task: "optional", seconds: () => 0, ask: ["first", "second"], run: () => text("both are known") },
  test_tool_with_task: { task: "required", seconds: () => 0, first: "user_name", run: (_, { user_name }) => text(`for ${user_name?.content?.name}`) },
};

const tasks = new Map();

class Refused extends Error {
  constructor(code, message, data) {
    super(message);
    Object.assign(this, { code, data });
  }
}

const [host, port] = process.argv[2].split(":");
createServer(async (request, response) => {
  let body = "";
  for await (const chunk of request) body += chunk;
  if (request.method !== "POST") return response.writeHead(405).end();
  const message = JSON.parse(body);
  let answer;
  try {
    answer = { jsonrpc: "2.0", id: message.id, result: act(request.headers, message) };
  } catch (error) {
    const { code = CODES.params, message: why, data } = error;
    answer = { jsonrpc: "2.0", id: message.id ?? null, error: { code, message: why, data } };
  }
  const status = { [CODES.header]: 400, [CODES.capability]: 400, [CODES.method]: 404 }[answer.error?.code] ?? 200;
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(answer));
}).listen(Number(port), host);

function act(headers, { method, params = {} }) {
  verify(headers, method, params);
  const asked = params._meta?.["io.modelcontextprotocol/clientCapabilities"]?.extensions?.[EXTENSION];
  switch (method) {
    case "server/discover":
      return listed({ supportedVersions: [VERSION], capabilities: { tools: {}, extensions: { [EXTENSION]: {} } } });
    case "tools/list":
      return listed({ tools: Object.keys(TOOLS).map((name) => ({ name, inputSchema: { type: "object" } })) });
    case "tools/call":
      return call(params, asked);
  }
  if (!["tasks/get", "tasks/update", "tasks/cancel"].includes(method)) throw new Refused(CODES.method, "there is no such method");
  need(asked);
  const task = tasks.get(params.taskId);
  if (!task) throw new Refused(CODES.params, "there is no such task");
  if (method === "tasks/get") return { resultType: "complete", ...task.common, ...detail(task) };
  if (method === "tasks/update") answered(task, params.inputResponses);
  else if (task.common.status === "working" || task.common.status === "input_required") finish(task, "cancelled", {});
  return { resultType: "complete" };
}

/** Headers must say what the body says (SEP-2243). */
function verify(headers, method, params) {
  const stated = { "mcp-method": method, "mcp-name": params.taskId ?? params.name };
  for (const [header, expected] of Object.entries(stated)) {
    const found = headers[header];
    if (found !== undefined && expected !== undefined && found !== expected) throw new Refused(CODES.header, `${header} is not what the body says`);
  }
}

function call({ name, arguments: given = {}, inputResponses = {} }, asked) {
  const tool = TOOLS[name];
  if (!tool) throw new Refused(CODES.params, "there is no such tool");
  if (tool.task === "required") need(asked);
  if (tool.first && !inputResponses[tool.first]) {
    return { resultType: "input_required", inputRequests: { [tool.first]: question(tool.first) }, requestState: "asked" };
  }
  if (!tool.task || !asked) return { resultType: "complete", ...tool.run(given, inputResponses) };
  const now = new Date().toISOString();
  const common = { taskId: randomUUID(), status: "working", createdAt: now, lastUpdatedAt: now, ttlMs: 60_000, pollIntervalMs: 100 };
  const task = { common, tool, given, answers: { ...inputResponses }, pending: new Map(tool.ask?.map((key) => [key, question(key)])) };
  tasks.set(common.taskId, task);
  proceed(task);
  return { resultType: "task", ...common };
}

function proceed(task) {
  const { tool, given, answers, common } = task;
  common.status = task.pending.size ? "input_required" : "working";
  if (task.pending.size) return;
  task.timer = setTimeout(() => {
    try {
      finish(task, "completed", { result: { resultType: "complete", ...tool.run(given, answers) } });
    } catch (error) {
      finish(task, "failed", { error: { code: -32603, message: error.message } });
    }
  }, tool.seconds(given) * 1000);
}

function answered(task, responses = {}) {
  for (const [key, response] of Object.entries(responses)) {
    if (task.pending.delete(key)) task.answers[key] = response;
  }
  if (task.common.status === "input_required") proceed(task);
}

function finish(task, status, outcome) {
  clearTimeout(task.timer);
  Object.assign(task.common, { status, lastUpdatedAt: new Date().toISOString() });
  task.outcome = outcome;
}

function detail(task) {
  return task.common.status === "input_required" ? { inputRequests: Object.fromEntries(task.pending) } : (task.outcome ?? {});
}

function question(key) {
  const requestedSchema = { type: "object", properties: { [key]: { type: "string" } } };
  return { method: "elicitation/create", params: { mode: "form", message: `Please state ${key}`, requestedSchema } };
}

function need(asked) {
  if (asked) return;
  const data = { requiredCapabilities: { extensions: { [EXTENSION]: {} } } };
  throw new Refused(CODES.capability, `the client does not declare ${EXTENSION}`, data);
}

function listed(result) {
  return { resultType: "complete", ttlMs: 0, cacheScope: "private", ...result };
}

function text(text) {
  return { content: [{ type: "text", text }] };
}
