// server.mjs CONFIGURATION: the OAuth2 server of the tests. The file is JSON:
//
//   issuer            its URL as clients see it
//   port              0 takes a free one
//   adminPort         on loopback; see administration.mjs. 0 takes a free one
//   lifetime          of tokens, in seconds
//   clients           [{id, secret}] or [{id, jwks}]; administration.mjs has more fields
//   resources         URLs that tokens are issued for; absent: any
//   defaultResource   whom a token is for that is requested for none; absent: nobody
//   tls               {certificate, key}, paths of PEM files: https instead of http
//   secure            {issuer, port, certificate, key, authority, certificatePort}: the same server under a second
//                     issuer, by https; certificatePort is where it asks for client certificates, and authority a
//                     PEM file with who may issue them. Its metadata names the endpoints there as aliases
//   hosts             {ORIGIN: ORIGIN}: where what clients publish is really fetched: their keys (jwks_uri), and the
//                     metadata of those whose identifier is a URL. Nothing is fetched elsewhere
//   assertionIssuers  [{issuer, key}]: whose assertions the grant jwt-bearer takes, key being a PEM file
//
// Prints a line with the ports once it serves.

import { readFileSync } from "node:fs";
import { createServer as createHttpServer } from "node:http";
import { createServer as createHttpsServer } from "node:https";

import { createAdministration } from "./administration.mjs";
import { Clients } from "./clients.mjs";
import { createProvider, shared } from "./provider.mjs";

const configuration = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { port = 9000, adminPort = 9001, lifetime = 60, tls, secure } = configuration;
const totals = { requests: 0, underWay: 0, mostUnderWay: 0, issued: 0, refused: 0, revoked: 0, issuedFor: {} };
const state = { ...totals, lifetime, fault: null };
const clients = new Clients(configuration.clients);
const given = { configuration, clients, state, common: shared() };
const provider = createProvider({ ...given, issuer: configuration.issuer });

function handle(provider) {
  const serve = provider.callback();
  // RFC 8414 has a name of its own for what OpenID Connect publishes.
  const alias = "/.well-known/oauth-authorization-server";
  return (request, response) => {
    if (request.url === "/healthz") return response.writeHead(200).end();
    if (request.url === alias) request.url = "/.well-known/openid-configuration";
    return serve(request, response);
  };
}

function listen(server, ...where) {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(...where, () => resolve(server.address().port));
  });
}

const pem = ({ certificate, key }) => ({ cert: readFileSync(certificate), key: readFileSync(key) });
const server = tls ? createHttpsServer(pem(tls), handle(provider)) : createHttpServer(handle(provider));
const administration = createAdministration(clients, state, provider);
const ports = { port: await listen(server, port), adminPort: await listen(administration, adminPort, "127.0.0.1") };

if (secure) {
  const elsewhere = new URL(secure.issuer);
  elsewhere.port = secure.certificatePort;
  const aliases = {
    token_endpoint: new URL("/token", elsewhere).href,
    revocation_endpoint: new URL("/token/revocation", elsewhere).href,
  };
  const serve = handle(createProvider({ ...given, issuer: secure.issuer, aliases }));
  // Which certificate is good for what is decided for each client, so that none is refused in the handshake.
  const asking = { ...pem(secure), ca: readFileSync(secure.authority), requestCert: true, rejectUnauthorized: false };
  ports.secure = await listen(createHttpsServer(pem(secure), serve), secure.port, "127.0.0.1");
  ports.certificates = await listen(createHttpsServer(asking, serve), secure.certificatePort, "127.0.0.1");
}
console.log(JSON.stringify({ event: "serving", issuer: configuration.issuer, ...ports }));

for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(0));
