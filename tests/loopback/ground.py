"""What stands on loopback beside the operator: OAuth2 servers with MCP servers that take their tokens, and LiteLLMs,
bare or beside a sidecar as in a pod that the webhook has changed.
"""

import json
import os
import secrets
from pathlib import Path

import kubernetes
from processes import Broken, Processes

OPERATOR_PORTS = 16  # those that api/with takes from the same start
LITELLM = Path(__file__).resolve().parents[1] / "images/python/bin/litellm"
# LiteLLM would fetch newer ones from the internet when it starts.
FROM_ITS_PACKAGE = dict.fromkeys(("LITELLM_LOCAL_MODEL_COST_MAP", "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS"), "True")
# Of LiteLLM, made anew in each run.
KEY = "sk-loopback-" + secrets.token_hex(8)


class Ground:
    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.folder = processes.folder
        self.next_port = int(os.environ.get("MCPAUTH_TEST_PORT", "16443")) + OPERATOR_PORTS

    def servers(self, name: str, program: Path | None = None, lifetime: int = 60, default_resource: bool = False) -> dict[str, str]:
        """An authorization server whose tokens live for `lifetime` seconds, and an MCP server that takes them:
        `program`, or the tests' usual one. Both answer. With `default_resource` a token that is requested for no resource is
        one for that MCP server too.
        """
        started = self.start_servers(name, program, lifetime, default_resource)
        self.until_authorization_server(started)
        self.until_mcp_server(started)
        return started

    def until_authorization_server(self, servers: dict[str, str]) -> None:
        self.processes.until_up(f"{servers['name']}-oauth", f"{servers['issuer']}/healthz")

    def until_mcp_server(self, servers: dict[str, str]) -> None:
        self.processes.until_up(f"{servers['name']}-mcp", f"{servers['mcp'].removesuffix('/mcp')}/healthz")

    def start_servers(self, name: str, program: Path | None = None, lifetime: int = 60, default_resource: bool = False) -> dict[str, str]:
        """The same, and neither is waited for."""
        port, admin, mcp = self.port(), self.port(), self.port()
        issuer, url = local(port), local(mcp)
        secret = secrets.token_hex(16)
        configuration = {"issuer": issuer, "port": port, "adminPort": admin, "lifetime": lifetime}
        if default_resource:
            configuration["defaultResource"] = f"{url}/mcp"
        configuration["clients"] = [{"id": kubernetes.CLIENT, "secret": secret}]
        oauth = Path(setting("MCPAUTH_LOOPBACK_OAUTH_SERVER"))
        file = self.write(f"{name}-oauth.json", json.dumps(configuration))
        self.processes.start(f"{name}-oauth", [str(oauth / "node"), str(oauth / "server.mjs"), str(file)])
        program = program or Path(setting("MCPAUTH_TEST_PROGRAMS")) / "mcp_server.py"
        where = ["--url", url, "--issuer", issuer, "--host", "127.0.0.1", "--port", str(mcp)]
        self.processes.start(f"{name}-mcp", [setting("MCPAUTH_TEST_PYTHON"), str(program), *where])
        started = {"name": name, "issuer": issuer, "token": f"{issuer}/token", "admin": local(admin)}
        return started | {"mcp": f"{url}/mcp", "secret": secret}

    def model(self, wait: bool = True) -> dict:
        """A stand-in for the LLM provider, as an entry of LiteLLM's `model_list` called `stub`. Without `wait` it may take a
        moment to answer.
        """
        port = self.port()
        program = f"{setting('MCPAUTH_TEST_PROGRAMS')}/llm.py"
        where = ["--host", "127.0.0.1", "--port", str(port)]
        self.processes.start("llm", [setting("MCPAUTH_TEST_PYTHON"), program, *where])
        if wait:
            self.processes.until_up("llm", f"{local(port)}/healthz")
        params = {"model": "openai/stub", "api_base": f"{local(port)}/v1", "api_key": "none"}
        return {"model_name": "stub", "litellm_params": params}

    def injected_litellm(
        self,
        pod: str,
        config: dict,
        packages: str | None = None,
        settings: dict[str, str] | None = None,
        options: list[str] | None = None,
    ) -> str:
        """LiteLLM with these options beside a sidecar with these settings; its URL, as users see it. `kubernetes.prepare`
        must know the pod.
        """
        litellm = self.port()
        original = self.write(f"{pod}.yaml", json.dumps(config))
        inbound = self.sidecar(pod, litellm, original, settings)
        wrapper = self.write(f"{pod}-wrapper.yaml", f"include: {json.dumps([str(original), str(self.overlay(pod))])}\n")
        self.litellm(pod, litellm, wrapper, packages=packages, options=options)
        return local(inbound)

    def sidecar(self, pod: str, litellm: int, original: Path, settings: dict[str, str] | None = None) -> int:
        """A sidecar in front of a LiteLLM at this port; its port, as users see it. `kubernetes.prepare` must know the
        pod.
        """
        inbound, outbound, health = (self.port() for _ in range(3))
        token = self.write(f"{pod}-token", kubernetes.identity(pod))
        environment = {
            "MCPAUTH_INBOUND": f"127.0.0.1:{inbound}",
            "MCPAUTH_OUTBOUND": f"127.0.0.1:{outbound}",
            "MCPAUTH_HEALTH": f"127.0.0.1:{health}",
            "MCPAUTH_LITELLM": f"127.0.0.1:{litellm}",
            "MCPAUTH_ORIGINAL_CONFIG": str(original),
            "MCPAUTH_OVERLAY": str(self.overlay(pod)),
            "MCPAUTH_OPERATOR": setting("MCPAUTH_TEST_OPERATOR"),
            "MCPAUTH_OPERATOR_CA": kubernetes.authority(setting("MCPAUTH_TEST_OPERATOR_NAMESPACE")),
            "MCPAUTH_TOKEN_FILE": str(token),
            "MCPAUTH_POD_NAMESPACE": kubernetes.NAMESPACE,
            "MCPAUTH_POD_NAME": pod,
            "MCPAUTH_POD_UID": kubernetes.uid(pod),
            "MCPAUTH_DRAIN_SECONDS": "0",
        }
        command = [setting("MCPAUTH_LOOPBACK_SIDECAR"), "serve"]
        self.processes.start(f"{pod}-sidecar", command, environment | (settings or {}))
        self.processes.until_up(f"{pod}-sidecar", f"{local(health)}/startup")
        return inbound

    def overlay(self, pod: str) -> Path:
        return self.folder / f"{pod}-overlay.yaml"

    def litellm(
        self,
        name: str,
        port: int,
        config: Path,
        environment: dict[str, str] | None = None,
        packages: str | None = None,
        options: list[str] | None = None,
    ) -> None:
        """`packages`: where another LiteLLM is than the tests' usual one."""
        python = ["env", f"PYTHONPATH={packages}", setting("MCPAUTH_TEST_INTERPRETER")] if packages else [setting("MCPAUTH_TEST_PYTHON")]
        where = ["--host", "127.0.0.1", "--port", str(port)]
        environment = (environment or {}) | FROM_ITS_PACKAGE | {"CONFIG_FILE_PATH": str(config), "MASTER_KEY": KEY}
        self.processes.start(name, [*python, str(LITELLM), *(options or []), *where], environment)

    def port(self) -> int:
        self.next_port += 1
        return self.next_port - 1

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)
        return path


def litellm_config(entry: dict, models: list[dict] | None = None) -> dict:
    """A config with one MCP server, `tools`, that has `entry` of its own."""
    entry = entry | {"transport": "http", "allow_all_keys": True}
    settings = {"master_key": "os.environ/MASTER_KEY"}
    return {"model_list": models or [], "general_settings": settings, "mcp_servers": {"tools": entry}}


def own_oauth2_entry(servers: dict[str, str]) -> dict:
    """An MCP server whose tokens LiteLLM requests itself, with the secret in MCP_CLIENT_SECRET of its environment."""
    return {
        "url": servers["mcp"],
        "auth_type": "oauth2",
        "oauth2_flow": "client_credentials",
        "token_url": servers["token"],
        "client_id": kubernetes.CLIENT,
        "client_secret": "os.environ/MCP_CLIENT_SECRET",
        "token_endpoint_auth_method": "client_secret_basic",
        "upstream_resource": servers["mcp"],
    }


def local(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def setting(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise Broken(f"{name} is not set: run this by its target of the Makefile")
    return value
