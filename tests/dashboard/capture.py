#!/usr/bin/env python3
"""Lets LiteLLM call MCP servers beside a real sidecar and a real operator while things go wrong, has Prometheus scrape both,
and draws each panel of the chart's dashboard from its own queries. Needs what `make dashboard-screenshots` prepares.
"""

import asyncio
import json
import shutil
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "loopback"), str(TESTS / "outage")]

import kubernetes
from authority import Authority
from calls import Callers, browser
from ground import KEY, Ground, litellm_config, local, setting
from panels import Panel, panels
from processes import Broken, Processes
from render import page, svg

REPOSITORY = TESTS.parent
DOCUMENT = REPOSITORY / "docs" / "dashboard.md"
PICTURES = REPOSITORY / "docs" / "dashboard"
# The second one never starts, so that its sidecar is behind.
PODS = ["litellm-0", "litellm-1"]
# In seconds. The dashboard's rates need four scrapes.
SCRAPE_INTERVAL, RATE_INTERVAL = 1, 15
# Of what happens, and between two calls.
PART, PAUSE = 30, 0.2
TOKEN_LIFETIME = 60
# They count what does not happen here.
MAY_BE_EMPTY: set[str] = set()


def expose(ground: Ground, sidecar: int) -> str:
    """Starts a Prometheus that scrapes the operator and this port of the sidecar's as a PodMonitor would; its URL."""
    operator = setting("MCPAUTH_TEST_OPERATOR_HEALTH").removeprefix("http://")
    labels = {"namespace": kubernetes.NAMESPACE, "pod": PODS[0]}
    jobs = [
        {"job_name": "operator", "honor_labels": True, "static_configs": [{"targets": [operator]}]},
        {"job_name": "sidecar", "static_configs": [{"targets": [f"127.0.0.1:{sidecar}"], "labels": labels}]},
    ]
    interval = f"{SCRAPE_INTERVAL}s"
    configuration = {"global": {"scrape_interval": interval, "scrape_timeout": interval}, "scrape_configs": jobs}
    # JSON is YAML.
    file = ground.write("prometheus.yaml", json.dumps(configuration))
    port = ground.port()
    command = [setting("MCPAUTH_DASHBOARD_PROMETHEUS"), f"--config.file={file}", f"--web.listen-address=127.0.0.1:{port}"]
    ground.processes.start("prometheus", [*command, f"--storage.tsdb.path={ground.folder / 'series'}"])
    ground.processes.until_up("prometheus", f"{local(port)}/-/ready")
    return local(port)


def read(prometheus: str, panel: Panel, start: float, end: float) -> list[dict]:
    """The series of a panel: legend and points."""
    series = []
    for target in panel.targets:
        query = {"query": target.expression(RATE_INTERVAL), "start": start, "end": end, "step": 1}
        url = f"{prometheus}/api/v1/query_range?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            result = json.load(answer)["data"]["result"]
        for found in result:
            points = [(at - start, float(value)) for at, value in found["values"]]
            points = [(at, value) for at, value in points if value == value and abs(value) != float("inf")]
            if points:
                series.append({"legend": target.legend_of(found["metric"]), "points": points})
    return sorted(series, key=lambda each: each["legend"])


class Calls:
    """Users' tool calls, one after another until it is stopped."""

    def __init__(self, callers: Callers, url: str) -> None:
        self.callers, self.url = callers, url
        self.problems: Counter[str] = Counter()
        self.answered = 0
        self.task = asyncio.create_task(self.run())

    async def run(self) -> None:
        while True:
            _, problem = await self.callers.call(self.url)
            self.answered += problem is None
            self.problems.update([problem[:60]] if problem else [])
            await asyncio.sleep(PAUSE)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        # The picture of calls that were all refused, or never made, would show nothing.
        if not self.answered or not self.problems:
            raise Broken(f"{self.answered} calls were answered, and these were not: {dict(self.problems)}")


def raise_up(ground: Ground) -> tuple[dict[str, str], str, int]:
    """Servers, a resource that works and one that does not, and LiteLLM beside a sidecar: its URL for users, and the
    sidecar's port for metrics.
    """
    servers = ground.servers("tools", lifetime=TOKEN_LIFETIME)
    kubernetes.prepare(servers, PODS, cookiePassthrough={"enabled": True, "cookieNames": ["session_id"]})
    wrong = kubernetes.resource(servers["mcp"], servers["token"])
    wrong["metadata"]["name"] = wrong["spec"]["server"]["name"] = "reports"
    authentication = wrong["spec"]["oauth2"]["clientAuthentication"]
    authentication["clientSecretRef"] = {"name": "reports-oauth", "key": "client-secret"}
    kubernetes.apply(kubernetes.of_kind("v1", "Secret", "reports-oauth", stringData={"client-secret": "outdated"}), wrong)
    url = ground.injected_litellm(PODS[0], litellm_config({"url": servers["mcp"]}))
    # LiteLLM's, the inbound and the outbound one come before it.
    metrics = ground.next_port - 1
    ground.processes.until_up(PODS[0], f"{url}/health/readiness")
    return servers, url, metrics


async def happen(ground: Ground, servers: dict[str, str], authority: Authority) -> None:
    """What goes well, and what goes wrong, one after another."""
    say("all is well")
    await asyncio.sleep(2 * PART)
    say("the authorization server fails")
    await authority.fail(status=503)
    await asyncio.sleep(2 * PART)
    await authority.heal()
    say("the authorization server is back")
    await asyncio.sleep(PART)
    say("the MCP server is away")
    ground.processes.stop("tools-mcp")
    await asyncio.sleep(PART / 2)
    ground.processes.start_again("tools-mcp")
    ground.processes.until_up("tools-mcp", f"{servers['mcp'].removesuffix('/mcp')}/healthz")
    say("the MCP server is back")
    await asyncio.sleep(PART)


async def capture(ground: Ground) -> tuple[dict[str, list[dict]], float]:
    servers, url, metrics = raise_up(ground)
    prometheus = expose(ground, metrics)
    async with browser() as session:
        calls = Calls(Callers(session, KEY, patience=10), url)
        await asyncio.sleep(RATE_INTERVAL)
        start = time.time()
        await happen(ground, servers, Authority(session, servers["admin"]))
        end = time.time()
        await calls.stop()
    say(f"{calls.answered} calls were answered, these were not: {dict(calls.problems)}")
    return {panel.name: read(prometheus, panel, start, end) for panel in panels()}, end - start


def draw(found: dict[str, list[dict]], seconds: float) -> None:
    empty = [panel.title for panel in panels() if not found[panel.name] and panel.name not in MAY_BE_EMPTY]
    if empty:
        raise Broken(f"Prometheus has nothing for the panels {', '.join(empty)}")
    PICTURES.mkdir(exist_ok=True)
    for old in PICTURES.glob("*.svg"):
        old.unlink()
    for panel in panels():
        (PICTURES / f"{panel.name}.svg").write_text(svg(panel.title, panel.unit, found[panel.name], seconds))
    DOCUMENT.write_text(page(DOCUMENT.read_text(), [(panel.name, panel.title) for panel in panels()]))
    say(f"{len(panels())} pictures are in {PICTURES}")


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="mcp-auth-dashboard."))
    try:
        with Processes(folder) as processes:
            found, seconds = asyncio.run(capture(Ground(processes)))
        draw(found, seconds)
    except Broken as broken:
        sys.exit(f"error: {broken}\nThe logs are in {folder}.")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
