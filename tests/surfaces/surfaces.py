#!/usr/bin/env python3
"""Two users take every way that LiteLLM offers to an MCP server's tools, at the same time, with the newest LiteLLM and
the oldest that is supported, each beside a sidecar. Fails if anything arrives at the server that must not, or if what
arrives differs from the table in docs/surfaces.md; --write writes it anew. It also fails if a call is not a log record and a span
at an OpenTelemetry Collector (collected.py), if LiteLLM decides otherwise about compressed bodies than without the sidecar
(compressed.py), or if promtool finds fault with the metrics. Needs what `make surfaces` prepares.
"""

import argparse
import asyncio
import importlib.metadata
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "loopback"), os.environ["MCPAUTH_TEST_PROGRAMS"]]

import aiohttp
import compressed
import exposition
import kubernetes
from collected import Collector
from document import part_of, put_into
from ground import KEY, Ground, litellm_config, local, setting
from litellm_calls import Failure, browser
from matrix import STARTUP, Row, problems, render, row, unequal
from processes import LIMIT, Broken, Processes
from users import GROUP, PASSTHROUGH, USERS, call_of, own_cookies
from ways import WAYS, take

DOCUMENT = TESTS.parent / "docs" / "surfaces.md"
BEGIN = "<!-- what follows is written by `make surfaces` -->"
END = "<!-- what `make surfaces` writes ends here -->"
# What LiteLLM itself cannot do, with or without mcp-auth: how each of these fails. Told if it does no longer.
CANNOT = {
    ("1.80.17", "/v1/responses, streamed"): "the response holds no message",
    ("1.80.17", "/v1/messages"): "status 500",
    ("1.80.17", "/v1/messages, streamed"): "status 500",
}


class Matrix:
    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.collector = Collector(ground)
        self.faults: list[str] = []
        # Tool calls that arrived at the MCP server, by LiteLLM's version.
        self.calls: Counter[str] = Counter()

    def of_versions(self, packages: dict[str, str | None]) -> dict[str, list[Row]]:
        servers = self.ground.servers("tools", TESTS / "surfaces" / "recording_server.py")
        model = self.ground.model()
        pods = {version: f"litellm-{number}" for number, version in enumerate(packages)}
        kubernetes.prepare(servers, list(pods.values()), **PASSTHROUGH)
        found = {}
        for version, where in packages.items():
            say(f"LiteLLM {version} (about a minute)")
            config = litellm_config({"url": servers["mcp"], "access_groups": [GROUP]}, [model])
            # The first port that is taken is LiteLLM's.
            own = local(self.ground.next_port)
            url = self.ground.injected_litellm(pods[version], config, where, self.collector.settings)
            metrics = local(self.ground.next_port - 1)
            self.ground.processes.until_up(pods[version], f"{url}/health/readiness")
            os.environ |= {"LITELLM_URL": url, "LITELLM_API_KEY": KEY}
            self.version = version
            found[version] = asyncio.run(self.of_all_ways(servers["mcp"].removesuffix("/mcp")))
            self.faults += [f"LiteLLM {version}, {fault}" for fault in asyncio.run(compressed.faults(version, url, own))]
            self.faults += exposition.faults("sidecar", f"{metrics}/metrics")
        self.faults += exposition.faults("operator", f"{setting('MCPAUTH_TEST_OPERATOR_HEALTH')}/metrics")
        self.faults += self.collector.faults({pods[version]: self.calls[version] for version in packages})
        return found

    async def of_all_ways(self, server: str) -> list[Row]:
        async with browser() as session:
            rows = [self.judged(STARTUP, await self.discovery(session, server))]
            for name in WAYS:
                ends = await asyncio.gather(*(self.taken_by(user, name, session) for user in USERS))
                arrived = await taken(session, server)
                self.calls[self.version] += sum(each["rpc"] == "tools/call" for each in arrived)
                rows.append(self.judged(name, arrived))
                for user, (served, failure) in zip(USERS, ends):
                    self.judge_end(name, user, served, failure)
        return rows

    def judge_end(self, name: str, user: str, served: str | None, failure: str | None) -> None:
        expected = CANNOT.get((self.version, name))
        if expected:
            if not (failure or "").startswith(expected):
                self.fault(f"{name}: {user} is served as {served}, {failure}; it was known for {expected}")
        elif served != own_cookies(user)["session_id"]:
            self.fault(f"{name}: {user} is served as {served}, {failure or 'and should not be'}")

    async def discovery(self, session: aiohttp.ClientSession, server: str) -> list[dict]:
        arrived: list[dict] = []
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            arrived += await taken(session, server)
            if any(each["rpc"] == "tools/list" for each in arrived):
                return arrived
            await asyncio.sleep(0.2)
        return arrived

    async def taken_by(self, user: str, name: str, session: aiohttp.ClientSession) -> tuple[str | None, str | None]:
        """Whom the tool served, or why it did not."""
        try:
            return await take(name, session, call_of(user)), None
        except Failure as failure:
            return None, str(failure)

    def judged(self, surface: str, arrived: list[dict]) -> Row:
        for problem in [*problems(surface, arrived), *unequal(surface, arrived)]:
            self.fault(problem)
        return row(surface, arrived)

    def fault(self, problem: str) -> None:
        self.faults.append(f"LiteLLM {self.version}, {problem}")


async def taken(session: aiohttp.ClientSession, server: str) -> list[dict]:
    async with session.get(f"{server}/taken") as answer:
        return await answer.json()


def as_documented(table: str, write: bool) -> bool:
    if write:
        put_into(DOCUMENT, BEGIN, END, table)
        return True
    documented = part_of(DOCUMENT, BEGIN, END).strip()
    for old, new in zip(documented.splitlines(), table.splitlines()):
        if old != new:
            say(f"- {old}\n   + {new}")
    return documented == table


def say(text: str) -> None:
    print(f"   {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table into docs/surfaces.md")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="mcp-auth-surfaces."))
    old = setting("MCPAUTH_SURFACES_OLD_VERSION")
    packages = {importlib.metadata.version("litellm"): None, old: setting("MCPAUTH_SURFACES_OLD_PACKAGES")}
    with Processes(folder) as processes:
        try:
            matrix = Matrix(Ground(processes))
            table = render(matrix.of_versions(packages))
        except Broken as error:
            say(f"error: {error}")
            return 1
    print(table, flush=True)
    if not matrix.faults:
        calls = matrix.calls.total()
        say(f"an OpenTelemetry Collector got {calls} tool calls as log records and spans; promtool takes the metrics")
    for fault in matrix.faults:
        say(f"must not be: {fault}")
    documented = as_documented(table, options.write and not matrix.faults)
    if not documented:
        say("what arrives is not what docs/surfaces.md says; if it should be, run tests/surfaces/run --write")
    if matrix.faults or not documented:
        say(f"the logs are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
