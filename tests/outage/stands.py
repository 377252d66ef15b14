"""The two arrangements. Each has an authorization server, an MCP server and LiteLLM replicas of its own, all of the
same make, so that the one that rests cannot be seen in the counts of the one that is measured.

In the first, LiteLLM is given the client's registration and gets its tokens itself. In the second, it runs beside a
sidecar as in a pod that the webhook has changed: requests come in through the sidecar, the MCP server is reached
through it, and the operator gets the token.
"""

import json
from dataclasses import dataclass

import kubernetes
from ground import Ground, litellm_config, local, own_oauth2_entry


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


def raise_up(ground: Ground, replicas: int) -> list[Stand]:
    own, ours = ground.servers("own"), ground.servers("ours")
    pods = [f"litellm-{number}" for number in range(replicas)]
    kubernetes.prepare(ours, pods)
    own_replicas = [own_litellm(ground, own, number) for number in range(replicas)]
    our_replicas = [(pod, ground.injected_litellm(pod, litellm_config({"url": ours["mcp"]}))) for pod in pods]
    for name, url in own_replicas + our_replicas:
        ground.processes.until_up(name, f"{url}/health/readiness")
    return [
        Stand("LiteLLM itself", own["admin"], [url for _, url in own_replicas], is_ours=False),
        Stand("mcp-auth", ours["admin"], [url for _, url in our_replicas], is_ours=True),
    ]


def own_litellm(ground: Ground, servers: dict[str, str], number: int) -> tuple[str, str]:
    name = f"own-litellm-{number}"
    config = ground.write(f"{name}.yaml", json.dumps(litellm_config(own_oauth2_entry(servers))))
    port = ground.port()
    ground.litellm(name, port, config, {"MCP_CLIENT_SECRET": servers["secret"]})
    return name, local(port)
