#!/usr/bin/env python3
"""Whether LiteLLM runs behind the sidecar, and under mcp-auth exec, in the servers besides uvicorn that it can be told to run:
granian and hypercorn; and whether the oldest LiteLLM that is supported runs under mcp-auth exec. Real LiteLLM, with the options
that injection adds: it must listen where it is told and nowhere else, and each of two users must reach the MCP server with the
token and with their own cookies. Needs what `make surfaces` prepares.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "loopback"), os.environ["MCPAUTH_TEST_PROGRAMS"]]

import aiohttp
import kubernetes
from ground import FROM_ITS_PACKAGE, KEY, LITELLM, Ground, local, setting
from litellm_calls import WAYS, Call, Failure, browser
from processes import Broken, Processes

COOKIES = ["session_id"]
# What injection adds to whatever a pod says, so that the last of several must count.
STATED = ["--host", "0.0.0.0", "--port", "9"]
AUTH = {"auth": {"cookie_passthrough": {"enabled": True, "cookie_names": COOKIES}}}


@dataclass
class Place:
    """A LiteLLM at `url` for users; its own port is `port`, where that is known."""

    name: str
    url: str
    port: int | None = None


def start(ground: Ground, servers: dict[str, str]) -> list[Place]:
    runs, packages = ["granian", "hypercorn"], setting("MCPAUTH_SURFACES_SERVERS_PACKAGES")
    kubernetes.prepare(servers, runs, cookiePassthrough={"enabled": True, "cookieNames": COOKIES})
    models, entry = [ground.model()], {"url": servers["mcp"], "transport": "http", "allow_all_keys": True}
    config = {
        "model_list": models,
        "general_settings": {"master_key": "os.environ/MASTER_KEY"},
        "mcp_servers": {"tools": entry},
    }
    places = []
    for run in runs:
        # The first port that is taken is LiteLLM's.
        port = ground.next_port
        url = ground.injected_litellm(run, config, packages, options=[*STATED, f"--run_{run}"])
        places.append(Place(f"{run} beside the sidecar", url, port))
    secret = ground.write("servers-secret", servers["secret"])
    settings = FROM_ITS_PACKAGE | {
        "MASTER_KEY": KEY,
        "MCP_OAUTH2_TOKEN_URL": servers["token"],
        "MCP_OAUTH2_CLIENT_ID": kubernetes.CLIENT,
        "MCP_OAUTH2_CLIENT_SECRET_FILE": str(secret),
    }
    own = ground.write("servers-exec.yaml", json.dumps(config | {"mcp_servers": {"tools": entry | AUTH}}))
    oldest = setting("MCPAUTH_SURFACES_OLD_VERSION")
    programs = [(run, packages, [f"--run_{run}"]) for run in runs]
    for run, packages, server in [*programs, (oldest, setting("MCPAUTH_SURFACES_OLD_PACKAGES"), [])]:
        port = ground.port()
        python = ["env", f"PYTHONPATH={packages}", setting("MCPAUTH_TEST_INTERPRETER")]
        command = [setting("MCPAUTH_SURFACES_LOCAL"), "exec", "--", *python, str(LITELLM)]
        options = ["--config", str(own), "--host", "127.0.0.1", "--port", str(port), *server]
        ground.processes.start(f"{run}-exec", [*command, *options], settings)
        places.append(Place(f"{run} under mcp-auth exec", local(port)))
    for place in places:
        name = place.name.split()[0] + ("" if place.port else "-exec")
        ground.processes.until_up(name, f"{place.url}/health/readiness")
    return places


def listeners(port: int) -> set[str]:
    """The addresses of the sockets that listen on this port, as the kernel lists them."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            address, _, state = line.split()[1:4]
            if state == "0A" and int(address.rsplit(":", 1)[1], 16) == port:
                found.add(address.rsplit(":", 1)[0])
    return found


async def asked(place: Place) -> list[str]:
    os.environ |= {"LITELLM_URL": place.url, "LITELLM_API_KEY": KEY}
    faults = []
    async with browser() as session:
        for user in ("ada", "bob"):
            call = Call(cookies={"session_id": f"S-{user}", "other": "kept"}, headers={"mcpauth-context": "forged"})
            for way in ("mcp", "chat", "chat-stream"):
                try:
                    answer = json.loads(await WAYS[way](session, call))
                except (Failure, ValueError, aiohttp.ClientError) as error:
                    faults.append(f"{way} by {user}: {error!r}")
                    continue
                if answer["cookies"] != {"session_id": f"S-{user}"} or answer["service"] != kubernetes.CLIENT:
                    faults.append(f"{way} by {user}: {answer}")
    return faults


def check(ground: Ground) -> list[str]:
    faults = []
    for place in start(ground, ground.servers("servers", lifetime=600)):
        found = asyncio.run(asked(place))
        if place.port and listeners(place.port) != {"0100007F"}:
            found.append(f"its port {place.port} listens on {listeners(place.port)} and not on 127.0.0.1 alone")
        with urllib.request.urlopen(f"{place.url}/health/liveliness", timeout=60) as answer:
            found += [] if answer.status == 200 else [f"its probe is answered {answer.status}"]
        say(f"{place.name}: two users, three ways each")
        faults += [f"{place.name}: {fault}" for fault in found]
    return faults


def say(text: str) -> None:
    print(f"   {text}", file=sys.stderr, flush=True)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="mcp-auth-servers."))
    with Processes(folder) as processes:
        try:
            faults = check(Ground(processes))
        except Broken as error:
            say(f"error: {error}")
            return 1
    for fault in faults:
        say(f"must not be: {fault}")
    if faults:
        say(f"the logs are in {folder}")
        return 1
    oldest = setting("MCPAUTH_SURFACES_OLD_VERSION")
    print(f"LiteLLM runs behind the sidecar and under mcp-auth exec in granian and in hypercorn, and LiteLLM {oldest} under mcp-auth exec")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
