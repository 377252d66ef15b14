// admin.mjs METHOD PATH [JSON]: asks the administration of the server that runs beside it and prints its answer.

const [method, path, body] = process.argv.slice(2);
const response = await fetch(`http://127.0.0.1:${process.env.ADMIN_PORT ?? 9001}${path}`, { method, body });
console.log(await response.text());
process.exitCode = response.ok ? 0 : 1;
