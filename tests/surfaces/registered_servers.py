"""Prints, as JSON, what LiteLLM's own loader makes of the `mcp_servers` of a file, each server with all its fields.
Run by a Python that has the LiteLLM that is asked.
"""

import asyncio
import json
import os
import sys

import yaml

try:
    from litellm.proxy.mcp_server.mcp_server_manager import MCPServerManager
except ImportError:  # before 1.106
    from litellm.proxy._experimental.mcp_server.mcp_server_manager import MCPServerManager


async def load(path: str) -> list[dict]:
    manager = MCPServerManager()
    with open(path) as file:
        await manager.load_servers_from_config(yaml.safe_load(file)["mcp_servers"])
    return [server.model_dump(mode="json") for server in manager.config_mcp_servers.values()]


print(json.dumps(asyncio.new_event_loop().run_until_complete(load(sys.argv[1]))), flush=True)
# Tasks of LiteLLM's that ask the servers for their tools would be waited for.
os._exit(0)
