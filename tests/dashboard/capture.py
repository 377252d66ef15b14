#!/usr/bin/env python3
"""Lets LiteLLM call MCP servers beside a real sidecar and a real operator while things go wrong, has Prometheus scrape both,
and draws each panel of the chart's dashboard from its own queries. Needs what `make dashboard` prepares.
"""

import asyncio
import datetime
import json
import math
import shutil
import signal
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "loopback"), str(TESTS / "outage")]

import aiohttp
import kubernetes
from authority import Authority
from calls import Callers, browser
from ground import KEY, Ground, litellm_config, local, setting
from panels import REPOSITORY, Panel, panels
from processes import Broken, Processes
from render import clock, page, svg

DOCUMENT = REPOSITORY / "docs" / "dashboard.md"
PICTURES = REPOSITORY / "docs" / "dashboard"
# The second one was made past the webhook.
POD, NOT_INJECTED = "litellm-0", "litellm-1"
# In seconds. The dashboard's rates need four scrapes.
SCRAPE_INTERVAL, RATE_INTERVAL = 1, 15
# Seconds between two calls of one user, and of a token.
PAUSE, TOKEN_LIFETIME = 0.4, 60
Event = tuple[float, str]


def expose(ground: Ground, sidecar: int) -> str:
    """Starts a Prometheus that scrapes the operator and this port of the sidecar's as a PodMonitor would; its URL."""
    operator = setting("MCPAUTH_TEST_OPERATOR_HEALTH").removeprefix("http://")
    labels = {"namespace": kubernetes.NAMESPACE, "pod": POD}
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
        drawn = []
        for found in result:
            points = [(at - start, float(value)) for at, value in found["values"]]
            points = [(at, value) for at, value in points if math.isfinite(value)]
            if points:
                drawn.append({"legend": target.legend_of(found["metric"]), "points": points})
        if not drawn:
            raise Broken(f"Prometheus has nothing for a query of the panel {panel.title}: {target.expr}")
        series += drawn
    return sorted(series, key=lambda each: each["legend"])


class Calls:
    """Tool calls of two users, of whom one has a cookie, to two servers, until they are stopped."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.problems: Counter[str] = Counter()
        self.answered = 0
        known, unknown = Callers(session, KEY, patience=10), Callers(session, KEY, patience=10)
        known.headers["Cookie"] = "session_id=ada"
        each = [(callers, server) for callers in (known, unknown) for server in ("tools", "search")]
        self.tasks = [asyncio.create_task(self.run(callers, url, server)) for callers, server in each]

    async def run(self, callers: Callers, url: str, server: str) -> None:
        while True:
            _, problem = await callers.call(url, server)
            self.answered += problem is None
            self.problems.update([f"{server}, {problem[:60]}"] if problem else [])
            await asyncio.sleep(PAUSE)

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        # The picture of calls that were all refused, or none, would show nothing.
        if not self.answered or not self.problems:
            raise Broken(f"{self.answered} calls were answered, and these were not: {dict(self.problems)}")


def raise_up(ground: Ground) -> tuple[dict[str, str], str, int]:
    """Servers, two resources that work and one that does not, and LiteLLM beside a sidecar: what there is of the first
    server, LiteLLM's URL for users, and the sidecar's port for metrics.
    """
    tools, search = ground.servers("tools", lifetime=TOKEN_LIFETIME), ground.servers("search", lifetime=4 * TOKEN_LIFETIME)
    cookies = {"cookiePassthrough": {"enabled": True, "cookieNames": ["session_id"]}}
    kubernetes.prepare(tools, [POD], **cookies)
    labels = {"app.kubernetes.io/name": "litellm"}
    spec = {"containers": [{"name": "litellm", "image": "litellm"}]}
    kubernetes.apply(
        kubernetes.of_kind("v1", "Pod", NOT_INJECTED, metadata={"labels": labels}, spec=spec),
        # It is for the first pod only, so that the other one is nothing to it.
        *another("search", search, search["secret"], podSelector={"matchLabels": labels | {"tools": "search"}}, **cookies),
        *another("reports", tools, "outdated"),
    )
    kubernetes.kubectl("label", "pod", POD, "--namespace", kubernetes.NAMESPACE, "tools=search")
    ends = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=20)
    stated = f"mcpauth.dev/expires-at={ends:%Y-%m-%dT%H:%M:%SZ}"
    kubernetes.kubectl("annotate", "secret", "search-oauth", "--namespace", kubernetes.NAMESPACE, stated)
    config = litellm_config({"url": tools["mcp"]})
    config["mcp_servers"]["search"] = config["mcp_servers"]["tools"] | {"url": search["mcp"]}
    url = ground.injected_litellm(POD, config)
    # LiteLLM's, the inbound and the outbound one come before it.
    metrics = ground.next_port - 1
    ground.processes.until_up(POD, f"{url}/health/readiness")
    return tools, url, metrics


def another(name: str, servers: dict[str, str], secret: str, **passthrough) -> list[dict]:
    """A Secret and a resource of this name."""
    resource = kubernetes.resource(servers["mcp"], servers["token"], **passthrough)
    resource["metadata"]["name"] = resource["spec"]["server"]["name"] = name
    resource["spec"]["oauth2"]["clientAuthentication"]["clientSecretRef"]["name"] = f"{name}-oauth"
    return [kubernetes.of_kind("v1", "Secret", f"{name}-oauth", stringData={"client-secret": secret}), resource]


async def happen(ground: Ground, servers: dict[str, str], authority: Authority) -> list[Event]:
    """What goes well, and what goes wrong, one after another; the seconds at which it began."""
    start, events = time.monotonic(), []

    def begins(what: str) -> None:
        events.append((time.monotonic() - start, what))
        print(f"{clock(events[-1][0])} {what}", file=sys.stderr, flush=True)

    begins("All is well, but for the resource `reports`, whose client secret is outdated, and a pod of `tools` and `reports` that has no sidecar")
    await asyncio.sleep(60)
    await authority.fail(status=503)
    begins("The authorization server of `tools` answers 503: the token in use serves until it expires, and then calls are refused")
    # Longer than any token lives.
    await asyncio.sleep(1.5 * TOKEN_LIFETIME)
    await authority.heal()
    begins("It is back: a token is requested when the circuit breaker lets the next request out")
    await asyncio.sleep(60)
    url = servers["mcp"].removesuffix("/mcp")
    ground.processes.stop("tools-mcp")
    begins("The MCP server `tools` is away; calls to `search` go on")
    await asyncio.sleep(15)
    ground.processes.start_again("tools-mcp", "--url", f"{url}/elsewhere")
    await asyncio.to_thread(ground.processes.until_up, "tools-mcp", f"{url}/healthz")
    begins("It is back, and rejects tokens, since it expects another audience")
    await asyncio.sleep(30)
    ground.processes.stop("tools-mcp")
    ground.processes.start_again("tools-mcp")
    await asyncio.to_thread(ground.processes.until_up, "tools-mcp", f"{url}/healthz")
    begins("It takes tokens again")
    await asyncio.sleep(45)
    return events


async def capture(ground: Ground) -> tuple[dict[str, list[dict]], float, list[Event]]:
    tools, url, metrics = raise_up(ground)
    prometheus = expose(ground, metrics)
    async with browser() as session:
        calls = Calls(session, url)
        # So that there is a rate from the first second on.
        await asyncio.sleep(RATE_INTERVAL)
        start = time.time()
        events = await happen(ground, tools, Authority(session, tools["admin"]))
        end = time.time()
        await calls.stop()
    print(f"{calls.answered} calls were answered, these were not: {dict(calls.problems)}", file=sys.stderr)
    return {panel.name: read(prometheus, panel, start, end) for panel in panels()}, end - start, events


def draw(found: dict[str, list[dict]], seconds: float, events: list[Event]) -> None:
    PICTURES.mkdir(exist_ok=True)
    for old in PICTURES.glob("*.svg"):
        old.unlink()
    marks = [at for at, _ in events[1:]]
    for panel in panels():
        queries = [target.expr for target in panel.targets]
        (PICTURES / f"{panel.name}.svg").write_text(svg(panel.title, panel.unit, queries, found[panel.name], seconds, marks))
    DOCUMENT.write_text(page(DOCUMENT.read_text(), events, panels()))
    print(f"{len(panels())} pictures are in {PICTURES}", file=sys.stderr)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="mcp-auth-dashboard."))
    try:
        with Processes(folder) as processes:
            found, seconds, events = asyncio.run(capture(Ground(processes)))
        draw(found, seconds, events)
    except Broken as broken:
        sys.exit(f"error: {broken}\nThe logs are in {folder}.")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
