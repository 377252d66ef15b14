// server.mjs CONFIGURATION: the OAuth2 server of the tests. The file is JSON:
//
//   issuer          its URL as clients see it
//   port            0 takes a free one
//   adminPort       on loopback; see administration.mjs. 0 takes a free one
//   lifetime        of tokens, in seconds
//   clients         [{id, secret}] or [{id, jwks}]
//   resources       URLs that tokens are issued for; absent: any
//   tls             {certificate, key}, paths of PEM files: https instead of http
//
// Prints a line with both ports once it serves.

import { readFileSync } from "node:fs";
import { createServer as createHttpServer } from "node:http";
import { createServer as createHttpsServer } from "node:https";

import { createAdministration } from "./administration.mjs";
import { Clients } from "./clients.mjs";
import { createProvider } from "./provider.mjs";

const configuration = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { port = 9000, adminPort = 9001, lifetime = 60, tls } = configuration;
const totals = { requests: 0, underWay: 0, mostUnderWay: 0, issued: 0, refused: 0, issuedFor: {} };
const state = { ...totals, lifetime, fault: null };
const clients = new Clients(configuration.clients);
const provider = createProvider(configuration, clients, state);

function handle(request, response) {
  if (request.url === "/healthz") response.writeHead(200).end();
  else provider.callback()(request, response);
}

function listen(server, ...where) {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(...where, () => resolve(server.address().port));
  });
}

const server = tls
  ? createHttpsServer({ cert: readFileSync(tls.certificate), key: readFileSync(tls.key) }, handle)
  : createHttpServer(handle);
const administration = createAdministration(clients, state);
const ports = { port: await listen(server, port), adminPort: await listen(administration, adminPort, "127.0.0.1") };
console.log(JSON.stringify({ event: "serving", issuer: configuration.issuer, ...ports }));

for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(0));
