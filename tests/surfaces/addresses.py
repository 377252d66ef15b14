#!/usr/bin/env python3
"""Whether LiteLLM decides by a client's address as it would without the sidecar: its own functions, newest and oldest
version, in the servers that LiteLLM runs in, asked by the same clients directly and through the sidecar. Fails at each
difference that docs/injection.md does not state. Needs what `make surfaces` prepares.
"""

import http.client
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "loopback")]

import kubernetes
from ground import Ground, setting
from processes import LIMIT, Broken, Processes

INGRESS, STRANGER, ITSELF = "127.0.0.9", "127.0.0.77", "127.0.0.1"
CLIENT = "203.0.113.10"
# `FORWARDED_ALLOW_IPS` as the pod's owner has set it, or uvicorn's default.
DEFAULT = "127.0.0.1,::1"
TRUSTED = [DEFAULT, INGRESS, "127.0.0.8/29", "*"]
RANGES = {"mcp_trusted_proxy_ranges": ["127.0.0.8/29"]}
SETTINGS = [
    {},
    {"allowed_ips": [CLIENT]},
    {"allowed_ips": [INGRESS]},
    {"use_x_forwarded_for": True},
    {"use_x_forwarded_for": True, "allowed_ips": [CLIENT]},
    {"use_x_forwarded_for": True, **RANGES},
    {"use_x_forwarded_for": True, **RANGES, "mcp_xff_num_trusted_hops": 1},
    {"use_x_forwarded_for": True, **RANGES, "mcp_xff_num_trusted_hops": 2},
    {"use_x_forwarded_for": True, "mcp_xff_num_trusted_hops": 1},
]
# The fields `X-Forwarded-For` of a request.
STATED = [[], [CLIENT], [f"6.6.6.6, {CLIENT}"], [f"{CLIENT}, {INGRESS}"]]


@dataclass
class Server:
    """LiteLLM's server at `direct`, and once more, as injection sets it up, at `behind` a sidecar at `through`."""

    name: str
    trusted: str
    direct: int
    behind: int
    through: int = 0

    def ask(self, port: int, peer: str, stated: list[str], scheme: str | None, settings: dict) -> dict:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT, source_address=(peer, 0))
        connection.putrequest("GET", "/")
        connection.putheader("settings", json.dumps(settings))
        for value in stated:
            connection.putheader("x-forwarded-for", value)
        if scheme:
            connection.putheader("x-forwarded-proto", scheme)
        connection.endheaders()
        with connection.getresponse() as answer:
            body = answer.read()
        connection.close()
        if answer.status != 200:
            raise Broken(f"{self.name} answers {answer.status} at port {port}: {body[:200]!r}")
        return json.loads(body)


def start(ground: Ground) -> list[Server]:
    old = setting("MCPAUTH_SURFACES_OLD_PACKAGES")
    python, program = setting("MCPAUTH_TEST_PYTHON"), TESTS / "surfaces" / "address_server.py"
    servers = []
    for version, command in {"newest": [python], "oldest": ["env", f"PYTHONPATH={old}", "python3.11"]}.items():
        uvicorns = [Server(f"uvicorn-{version}", trusted, ground.port(), ground.port()) for trusted in TRUSTED]
        listeners = [f"{each.direct}={each.trusted}" for each in uvicorns]
        listeners += [f"{each.behind}={with_loopback(each.trusted)}" for each in uvicorns]
        ground.processes.start(f"uvicorn-{version}", [*command, str(program), *listeners])
        name, port = f"gunicorn-{version}", ground.port()
        arguments = ["-m", "gunicorn", "--worker-class", "uvicorn.workers.UvicornWorker", "--chdir", str(program.parent)]
        arguments += ["--bind", f"127.0.0.1:{port}", "address_server:app"]
        ground.processes.start(name, [*command, *arguments])
        servers += [*uvicorns, Server(name, DEFAULT, port, port)]
    kubernetes.prepare(ground.servers("tools"), [pod(number) for number in range(len(servers))])
    configuration = ground.write("none.yaml", "{}")
    for number, server in enumerate(servers):
        ground.processes.until_up(server.name, f"http://127.0.0.1:{server.direct}/")
        listens = {"MCPAUTH_FORWARDED_ALLOW_IPS": server.trusted}
        server.through = ground.sidecar(pod(number), server.behind, configuration, listens)
        ground.processes.until_up(f"{pod(number)}-sidecar", f"http://127.0.0.1:{server.through}/")
    return servers


def pod(number: int) -> str:
    return f"addresses-{number}"


def with_loopback(trusted: str) -> str:
    """What injection makes of it."""
    return trusted if trusted == "*" or ITSELF in trusted.split(",") else f"{trusted},{ITSELF}"


def fails_closed(direct: dict, through: dict, stated: list[str], settings: dict) -> bool:
    """The one difference that there is: a client that states nothing seems to have stated its address, so that
    LiteLLM, told to trust what is stated but not whose, or to count more proxies than there are, takes the client for
    an external one.
    """
    if stated or not settings.get("use_x_forwarded_for"):
        return False
    hops = settings.get("mcp_xff_num_trusted_hops", 0)
    changed = {name for name in direct if direct[name] != through[name]} - {"stated"}
    is_undecided = "mcp_trusted_proxy_ranges" not in settings or hops > 1
    addresses = {"address for MCP servers", "sees internal MCP servers"}
    return is_undecided and changed <= addresses and not through["sees internal MCP servers"]


def differences(servers: list[Server]) -> tuple[int, int, list[str]]:
    compared, closed, faults = 0, 0, []
    clients = itertools.product(servers, [INGRESS, STRANGER, ITSELF], STATED, [None, "https"], SETTINGS)
    for server, peer, stated, scheme, settings in clients:
        # Who connects from the pod itself, or by `kubectl port-forward`, counts as a trusted proxy behind a sidecar.
        if peer == ITSELF and with_loopback(server.trusted) != server.trusted:
            continue
        direct = server.ask(server.direct, peer, stated, scheme, settings)
        through = server.ask(server.through, peer, stated, scheme, settings)
        compared += 1
        if not stated:
            # LiteLLM cannot be told of a client's address but by this header.
            direct["stated"] = through["stated"]
        if direct == through:
            continue
        if fails_closed(direct, through, stated, settings):
            closed += 1
        else:
            who = f"{server.name} trusting {server.trusted}, {peer} stating {stated} {scheme or ''}, {settings}"
            faults.append(f"{who}:\n      without the sidecar {direct}\n      through it          {through}")
    return compared, closed, faults


def say(text: str) -> None:
    print(f"   {text}", file=sys.stderr, flush=True)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="mcp-auth-addresses."))
    with Processes(folder) as processes:
        try:
            compared, closed, faults = differences(start(Ground(processes)))
        except Broken as error:
            say(f"error: {error}")
            return 1
    for fault in faults:
        say(f"must not be: {fault}")
    if faults:
        say(f"{len(faults)} of {compared} decisions differ; the logs are in {folder}")
        return 1
    print(f"{compared} decisions by client address are the same with the sidecar and without it, but for {closed} where")
    print("the client counts as external, as docs/injection.md says")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
