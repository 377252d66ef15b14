"""The two arrangements. Each has an authorization server, an MCP server and LiteLLM replicas of its own, all of the
same make, so that the one that rests cannot be seen in the counts of the one that is measured.

In the first, LiteLLM is given the client's registration and gets its tokens itself. In the second, it runs beside a
sidecar as in a pod that the webhook has changed: requests come in through the sidecar, the MCP server is reached
through it, and the operator gets the token.
"""

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import kubernetes
from processes import Broken, Processes

OPERATOR_PORTS = 12  # those that api/with takes from the same start
LITELLM = Path(__file__).resolve().parents[1] / "images/python/bin/litellm"
# LiteLLM would fetch newer ones from the internet when it starts.
FROM_ITS_PACKAGE = dict.fromkeys(("LITELLM_LOCAL_MODEL_COST_MAP", "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS"), "True")
# Of LiteLLM, made anew in each run.
KEY = "sk-outage-" + secrets.token_hex(8)


@dataclass
class Stand:
    """One arrangement, up and ready."""

    name: str
    # Of its authorization server's administration.
    authority: str
    # URLs of its LiteLLMs, as their users see them.
    replicas: list[str]
    # mcp-auth's: all replicas share a token, and it has to keep to its schedule.
    is_ours: bool


class Ground:
    def __init__(self, processes: Processes, replicas: int) -> None:
        self.processes = processes
        self.folder = processes.folder
        self.replicas = replicas
        self.next_port = int(os.environ.get("MCPAUTH_TEST_PORT", "16443")) + OPERATOR_PORTS

    def raise_up(self) -> list[Stand]:
        own, ours = self.servers("own"), self.servers("ours")
        pods = [f"litellm-{number}" for number in range(self.replicas)]
        kubernetes.prepare(ours["mcp"], ours["token"], ours["secret"], pods)
        own_replicas = [self.own_litellm(own, number) for number in range(self.replicas)]
        our_replicas = [self.our_litellm(ours, pod) for pod in pods]
        for name, url in own_replicas + our_replicas:
            self.processes.until_up(name, f"{url}/health/readiness")
        return [
            Stand("LiteLLM itself", own["admin"], [url for _, url in own_replicas], is_ours=False),
            Stand("mcp-auth", ours["admin"], [url for _, url in our_replicas], is_ours=True),
        ]

    def servers(self, name: str) -> dict[str, str]:
        """An authorization server, and an MCP server that takes its tokens."""
        port, admin, mcp = self.port(), self.port(), self.port()
        issuer, url = local(port), local(mcp)
        secret = secrets.token_hex(16)
        configuration = {"issuer": issuer, "port": port, "adminPort": admin, "lifetime": 60}
        configuration["clients"] = [{"id": kubernetes.CLIENT, "secret": secret}]
        oauth = Path(setting("MCPAUTH_OUTAGE_OAUTH_SERVER"))
        file = self.write(f"{name}-oauth.json", json.dumps(configuration))
        self.processes.start(f"{name}-oauth", [str(oauth / "node"), str(oauth / "server.mjs"), str(file)])
        program = [setting("MCPAUTH_TEST_PYTHON"), f"{setting('MCPAUTH_TEST_PROGRAMS')}/mcp_server.py"]
        where = ["--url", url, "--issuer", issuer, "--host", "127.0.0.1", "--port", str(mcp)]
        self.processes.start(f"{name}-mcp", program + where)
        self.processes.until_up(f"{name}-oauth", f"{issuer}/healthz")
        self.processes.until_up(f"{name}-mcp", f"{url}/healthz")
        return {"token": f"{issuer}/token", "admin": local(admin), "mcp": f"{url}/mcp", "secret": secret}

    def own_litellm(self, servers: dict[str, str], number: int) -> tuple[str, str]:
        entry = {
            "url": servers["mcp"],
            "auth_type": "oauth2",
            "oauth2_flow": "client_credentials",
            "token_url": servers["token"],
            "client_id": kubernetes.CLIENT,
            "client_secret": "os.environ/MCP_CLIENT_SECRET",
            "token_endpoint_auth_method": "client_secret_basic",
            "upstream_resource": servers["mcp"],
        }
        name = f"own-litellm-{number}"
        config = self.write(f"{name}.yaml", json.dumps(litellm_config(entry)))
        port = self.port()
        self.litellm(name, port, config, {"MCP_CLIENT_SECRET": servers["secret"]})
        return name, local(port)

    def our_litellm(self, servers: dict[str, str], pod: str) -> tuple[str, str]:
        inbound, outbound, health, litellm = (self.port() for _ in range(4))
        original = self.write(f"{pod}.yaml", json.dumps(litellm_config({"url": servers["mcp"]})))
        overlay = self.folder / f"{pod}-overlay.yaml"
        token = self.write(f"{pod}-token", kubernetes.identity(pod))
        environment = {
            "MCPAUTH_INBOUND": f"127.0.0.1:{inbound}",
            "MCPAUTH_OUTBOUND": f"127.0.0.1:{outbound}",
            "MCPAUTH_HEALTH": f"127.0.0.1:{health}",
            "MCPAUTH_LITELLM": f"127.0.0.1:{litellm}",
            "MCPAUTH_ORIGINAL_CONFIG": str(original),
            "MCPAUTH_OVERLAY": str(overlay),
            "MCPAUTH_OPERATOR": setting("MCPAUTH_TEST_OPERATOR"),
            "MCPAUTH_OPERATOR_CA": kubernetes.authority(setting("MCPAUTH_TEST_OPERATOR_NAMESPACE")),
            "MCPAUTH_TOKEN_FILE": str(token),
            "MCPAUTH_POD_NAMESPACE": kubernetes.NAMESPACE,
            "MCPAUTH_POD_NAME": pod,
            "MCPAUTH_POD_UID": kubernetes.uid(pod),
            "MCPAUTH_DRAIN_SECONDS": "0",
        }
        self.processes.start(f"{pod}-sidecar", [setting("MCPAUTH_OUTAGE_SIDECAR"), "serve"], environment)
        self.processes.until_up(f"{pod}-sidecar", f"{local(health)}/startup")
        wrapper = self.write(f"{pod}-wrapper.yaml", f"include: {json.dumps([str(original), str(overlay)])}\n")
        self.litellm(pod, litellm, wrapper)
        return pod, local(inbound)

    def litellm(self, name: str, port: int, config: Path, environment: dict[str, str] | None = None) -> None:
        program = [setting("MCPAUTH_TEST_PYTHON"), str(LITELLM)]
        where = ["--host", "127.0.0.1", "--port", str(port)]
        environment = (environment or {}) | FROM_ITS_PACKAGE | {"CONFIG_FILE_PATH": str(config), "MASTER_KEY": KEY}
        self.processes.start(name, program + where, environment)

    def port(self) -> int:
        self.next_port += 1
        return self.next_port - 1

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)
        return path


def litellm_config(entry: dict) -> dict:
    entry = entry | {"transport": "http", "allow_all_keys": True}
    settings = {"master_key": "os.environ/MASTER_KEY"}
    return {"model_list": [], "general_settings": settings, "mcp_servers": {"tools": entry}}


def local(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def setting(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise Broken(f"{name} is not set: run this by `make outage`")
    return value
