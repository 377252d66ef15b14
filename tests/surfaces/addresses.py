#!/usr/bin/env python3
"""Whether LiteLLM decides by a client's address as it would without the sidecar: its own functions, newest and oldest
version, in the servers that LiteLLM runs in, asked by the same clients directly and through the sidecar. Fails at each
difference that docs/injection.md does not state, and where docs/client-addresses.md does not have what was measured; --write
writes that. Needs what `make surfaces` prepares.
"""

import argparse
import http.client
import itertools
import json
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "loopback")]

import address_table
import kubernetes
from address_table import CLIENT, DEFAULT, FORGED, INGRESS, RANGE, STRANGER, Asked, Caller
from document import part_of, put_into
from ground import Ground, setting
from processes import LIMIT, Broken, Processes

DOCUMENT = TESTS.parent / "docs" / "client-addresses.md"
BEGIN, END = (f"<!-- what {says} by tests/surfaces/addresses.py -->" for says in ("follows is written", "was written ends here,"))
ITSELF = "127.0.0.1"
# `FORWARDED_ALLOW_IPS` as the pod's owner has set it, or uvicorn's default.
TRUSTED = [DEFAULT, INGRESS, RANGE, "*"]
RANGES = {"mcp_trusted_proxy_ranges": [RANGE]}
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
    {"use_x_forwarded_for": True, "mcp_trusted_proxy_ranges": [RANGE, f"{ITSELF}/32"]},
]
# The addresses whose callers LiteLLM counts as internal: the proxy is one of them, as in a cluster, and the stranger is not.
INTERNAL = {"mcp_internal_ip_ranges": ["127.0.0.0/26"]}
# The fields `X-Forwarded-For` of a request.
STATED = [[], [CLIENT], [INGRESS], [f"{FORGED}, {CLIENT}"], [f"{CLIENT}, {INGRESS}"]]


@dataclass
class Server:
    """LiteLLM's server at `direct`, and once more, as injection sets it up, at `behind` a sidecar at `through`."""

    name: str
    trusted: str
    direct: int
    behind: int
    knows_forwarded_addresses: bool = True
    through: int = 0

    def ask(self, port: int, peer: str, stated: list[str], scheme: str | None, settings: dict) -> dict:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT, source_address=(peer, 0))
        connection.putrequest("GET", "/")
        connection.putheader("settings", json.dumps(settings | INTERNAL))
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
    newest, old = setting("MCPAUTH_SURFACES_SERVERS_PACKAGES"), setting("MCPAUTH_SURFACES_OLD_PACKAGES")
    program = TESTS / "surfaces" / "address_server.py"
    servers = []
    # hypercorn comes from behind the oldest LiteLLM's own packages.
    for version, packages in {"newest": newest, "oldest": f"{old}:{newest}"}.items():
        command = ["env", f"PYTHONPATH={packages}:{program.parent}", setting("MCPAUTH_TEST_INTERPRETER")]
        uvicorns = [Server(f"uvicorn-{version}", trusted, ground.port(), ground.port()) for trusted in TRUSTED]
        listeners = [f"{each.direct}={each.trusted}" for each in uvicorns]
        listeners += [f"{each.behind}={with_loopback(each.trusted)}" for each in uvicorns]
        ground.processes.start(f"uvicorn-{version}", [*command, str(program), "uvicorn", *listeners])
        name, port = f"gunicorn-{version}", ground.port()
        arguments = ["-m", "gunicorn", "--worker-class", "uvicorn.workers.UvicornWorker"]
        arguments += ["--bind", f"127.0.0.1:{port}", "address_server:app"]
        ground.processes.start(name, [*command, *arguments])
        servers += [*uvicorns, Server(name, DEFAULT, port, port)]
        # LiteLLM 1.80.17 does not run in granian.
        for run in ["hypercorn", "granian"] if version == "newest" else ["hypercorn"]:
            name, port = f"{run}-{version}", ground.port()
            ground.processes.start(name, [*command, str(program), run, str(port)])
            servers.append(Server(name, DEFAULT, port, port, knows_forwarded_addresses=False))
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


def comes_from_loopback(server: Server, caller: Caller, settings: dict, through: dict) -> bool:
    """The difference that granian and hypercorn make, which know no forwarded address: LiteLLM decides as if the pod itself had
    sent the request, with the `X-Forwarded-For` of the client or, of one that states none, its address.
    """
    if server.knows_forwarded_addresses:
        return False
    stated = list(caller.stated) or [caller.peer]
    return through == server.ask(server.direct, ITSELF, stated, caller.scheme, settings)


def measure(servers: list[Server]) -> tuple[list[Asked], list[str]]:
    """What was decided, and what must not be."""
    asked, faults = [], []
    clients = itertools.product(servers, [INGRESS, STRANGER, ITSELF], STATED, [None, "https"], SETTINGS)
    for server, peer, stated, scheme, settings in clients:
        # Who connects from the pod itself, or by `kubectl port-forward`, counts as a trusted proxy behind a sidecar.
        if peer == ITSELF and with_loopback(server.trusted) != server.trusted:
            continue
        caller = Caller(peer, tuple(stated), scheme)
        direct = server.ask(server.direct, peer, stated, scheme, settings)
        through = server.ask(server.through, peer, stated, scheme, settings)
        if not stated:
            # LiteLLM cannot be told of a client's address but by this header.
            direct["stated"] = through["stated"]
        told = None
        if direct != through:
            if fails_closed(direct, through, stated, settings):
                told = "external"
            elif comes_from_loopback(server, caller, settings, through):
                told = "loopback"
            else:
                who = f"{server.name} trusting {server.trusted}, {peer} stating {stated} {scheme or ''}, {settings}"
                faults.append(f"{who}:\n      without the sidecar {direct}\n      through it          {through}")
        asked.append(Asked(server.name, server.trusted, caller, settings, direct, through, told))
    return asked, faults


def say(text: str) -> None:
    print(f"   {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the tables into docs/client-addresses.md")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="mcp-auth-addresses."))
    with Processes(folder) as processes:
        try:
            asked, faults = measure(start(Ground(processes)))
            tables = address_table.render(asked, SETTINGS, STATED)
        except Broken as error:
            say(f"error: {error}")
            return 1
    for fault in faults:
        say(f"must not be: {fault}")
    if faults:
        say(f"{len(faults)} of {len(asked)} decisions differ; the logs are in {folder}")
        return 1
    if options.write:
        put_into(DOCUMENT, BEGIN, END, tables)
    elif part_of(DOCUMENT, BEGIN, END).strip() != tables:
        say(f"error: the tables in {DOCUMENT} are not:\n{tables}\n   run tests/surfaces/run --write")
        return 1
    closed, loopback = (sum(each.told == told for each in asked) for told in ("external", "loopback"))
    print(f"{len(asked)} decisions by client address are the same with the sidecar and without it, but for {closed} where")
    print(f"the client counts as external, and {loopback} in granian and hypercorn where it counts as 127.0.0.1, as")
    print("docs/injection.md says and docs/client-addresses.md shows")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
