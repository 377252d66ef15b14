"""What gets the tokens between a LiteLLM and an MCP server: each candidate with servers of its own, set up as its
documentation says, and what LiteLLM is told to reach the MCP server through it.
"""

import importlib.metadata
import json
import os
import socket
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import kubernetes
from ground import Ground, litellm_config, local, own_oauth2_entry, setting
from processes import LIMIT, Broken

# Of four cookies of a user, the two that the MCP server is meant to see.
LISTED = ["session_id", "user_id"]
# LiteLLM passes a user's cookies on to a server only where its entry says so, and then all of them.
ALL_COOKIES = {"extra_headers": ["Cookie"]}
REJECTING_SERVER = Path(__file__).resolve().parent / "rejecting_server.py"


@dataclass
class Candidate:
    name: str
    version: str
    # Its authorization server and its MCP server.
    servers: dict[str, str]
    # Of its LiteLLM, as users see it.
    url: str
    litellm: str
    # The program beside LiteLLM, whose processor time is measured; None: LiteLLM itself does it.
    process: str | None
    is_ours: bool = False


def own_oauth2(ground: Ground, servers: dict[str, str]) -> Candidate:
    url = litellm_in_front(ground, "own-litellm", own_oauth2_entry(servers) | ALL_COOKIES, {"MCP_CLIENT_SECRET": servers["secret"]})
    return Candidate("LiteLLM's own", importlib.metadata.version("litellm"), servers, url, "own-litellm", None)


def mcp_auth(ground: Ground, servers: dict[str, str]) -> Candidate:
    pod = "ours-litellm"
    kubernetes.prepare(servers, [pod], cookiePassthrough={"enabled": True, "cookieNames": LISTED})
    url = ground.injected_litellm(pod, litellm_config({"url": servers["mcp"]}))
    return Candidate("mcp-auth", setting("MCPAUTH_GATEWAYS_MCPAUTH_VERSION"), servers, url, pod, f"{pod}-sidecar", is_ours=True)


def envoy(ground: Ground, servers: dict[str, str]) -> Candidate:
    """The filter credential_injector with the extension for OAuth2, on one worker."""
    port = ground.port()
    program = setting("MCPAUTH_GATEWAYS_ENVOY")
    file = ground.write("envoy.json", json.dumps(envoy_configuration(port, servers)))
    options = ["--concurrency", "1", "--log-level", "warn", "--use-dynamic-base-id"]
    ground.processes.start("envoy", [program, "--config-path", str(file), *options])
    until_listening("envoy", ground, port)
    url = litellm_in_front(ground, "envoy-litellm", {"url": f"{local(port)}/mcp"} | ALL_COOKIES)
    return Candidate("Envoy", setting("MCPAUTH_GATEWAYS_ENVOY_VERSION"), servers, url, "envoy-litellm", "envoy")


def envoy_configuration(port: int, servers: dict[str, str]) -> dict:
    extensions = "type.googleapis.com/envoy.extensions"
    credential = {
        "@type": f"{extensions}.http.injected_credentials.oauth2.v3.OAuth2",
        "token_endpoint": {"cluster": "authorization-server", "timeout": "10s", "uri": servers["token"]},
        "client_credentials": {"client_id": kubernetes.CLIENT, "client_secret": {"name": "client-secret"}},
        # RFC 8707: the authorization server issues tokens for the resource that is named.
        "endpoint_params": [{"name": "resource", "value": servers["mcp"]}],
    }
    injector = {
        "@type": f"{extensions}.filters.http.credential_injector.v3.CredentialInjector",
        "overwrite": True,
        "credential": {"name": "envoy.http.injected_credentials.oauth2", "typed_config": credential},
    }
    router = {"@type": f"{extensions}.filters.http.router.v3.Router"}
    mcp = urllib.parse.urlsplit(servers["mcp"]).netloc
    # The MCP server looks at the Host header. No time limit: answers may be streams.
    route = {"cluster": "mcp-server", "host_rewrite_literal": mcp, "timeout": "0s"}
    manager = {
        "@type": f"{extensions}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "mcp",
        "http_filters": [
            {"name": "envoy.filters.http.credential_injector", "typed_config": injector},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
        "route_config": {"virtual_hosts": [{"name": "mcp", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}]},
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {
        "static_resources": {
            "listeners": [{"name": "mcp", "address": address(local(port)), "filter_chains": [chain]}],
            "clusters": [cluster("mcp-server", servers["mcp"]), cluster("authorization-server", servers["token"])],
            "secrets": [{"name": "client-secret", "generic_secret": {"secret": {"inline_string": servers["secret"]}}}],
        }
    }


def cluster(name: str, url: str) -> dict:
    endpoint = {"lb_endpoints": [{"endpoint": {"address": address(url)}}]}
    return {"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": [endpoint]}}


def address(url: str) -> dict:
    parts = urllib.parse.urlsplit(url)
    return {"socket_address": {"address": parts.hostname, "port_value": parts.port}}


def authbridge(ground: Ground, servers: dict[str, str]) -> Candidate:
    """The mode proxy-sidecar: LiteLLM has it as its HTTP proxy."""
    port, stats = ground.port(), ground.port()
    mcp = urllib.parse.urlsplit(servers["mcp"])
    identity = {"type": "client-secret", "client_id": kubernetes.CLIENT, "client_secret": servers["secret"]}
    rules = [{"host": mcp.hostname, "target_audience": servers["mcp"]}]
    exchange = {
        "token_url": servers["token"],
        "no_token_policy": "client-credentials",
        "identity": identity,
        "routes": {"rules": rules},
    }
    configuration = {
        "mode": "proxy-sidecar",
        "listener": {"roles": ["forward"], "forward_proxy_addr": f"127.0.0.1:{port}", "session_api_addr": f"127.0.0.1:{ground.port()}"},
        "stats": {"address": f"127.0.0.1:{stats}"},
        "pipeline": {"outbound": {"plugins": [{"name": "token-exchange", "config": exchange}]}},
    }
    file = ground.write("authbridge.yaml", json.dumps(configuration))
    ground.processes.start("authbridge", [setting("MCPAUTH_GATEWAYS_AUTHBRIDGE"), "--config", str(file)])
    until_listening("authbridge", ground, port)
    proxied = {"HTTP_PROXY": local(port), "http_proxy": local(port), "NO_PROXY": "", "no_proxy": ""}
    url = litellm_in_front(ground, "authbridge-litellm", {"url": servers["mcp"]} | ALL_COOKIES, proxied)
    return Candidate("AuthBridge", setting("MCPAUTH_GATEWAYS_AUTHBRIDGE_VERSION"), servers, url, "authbridge-litellm", "authbridge")


# By the name of the setting that says where the program is; None: it needs none.
CANDIDATES: list[tuple[str, str | None, Callable[[Ground, dict[str, str]], Candidate]]] = [
    ("own", None, own_oauth2),
    ("envoy", "MCPAUTH_GATEWAYS_ENVOY", envoy),
    ("authbridge", "MCPAUTH_GATEWAYS_AUTHBRIDGE", authbridge),
    ("ours", None, mcp_auth),
]


def raise_up(ground: Ground, lifetime: int) -> list[Candidate]:
    """All that are there, each with its LiteLLM ready. Tokens live for `lifetime` seconds."""
    made = []
    for name, program, start in CANDIDATES:
        if program is None or os.environ.get(program):
            # AuthBridge names an audience and no resource.
            servers = ground.servers(name, REJECTING_SERVER, lifetime, default_resource=name == "authbridge")
            made.append(start(ground, servers))
    for candidate in made:
        ground.processes.until_up(candidate.litellm, f"{candidate.url}/health/readiness")
    return made


def litellm_in_front(ground: Ground, name: str, entry: dict, environment: dict[str, str] | None = None) -> str:
    config = ground.write(f"{name}.yaml", json.dumps(litellm_config(entry)))
    port = ground.port()
    ground.litellm(name, port, config, environment)
    return local(port)


def until_listening(name: str, ground: Ground, port: int) -> None:
    process = ground.processes.process(name)
    end = time.monotonic() + LIMIT
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise Broken(f"{name} does not listen at port {port}; its log is {ground.processes.log(name)}")
