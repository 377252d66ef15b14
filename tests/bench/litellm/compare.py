#!/usr/bin/env python3
"""Measures a tool call through a real LiteLLM that gets its tokens itself, and through one behind a sidecar: one call after
the other, several callers at the same time, and the first call after a silence to an MCP server that is 20 ms away by
TLS. Writes the table into docs/performance.md. Needs what `run` prepares.
"""

import argparse
import asyncio
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]
sys.path += [str(TESTS / "loopback"), str(TESTS / "outage")]

import kubernetes
from calls import Callers, browser
from delay import FAR, NEAR
from ground import KEY, Ground, local, setting
from processes import LIMIT, Broken, Processes
from table import SUMMARY_BEGIN, SUMMARY_END, Times, put_into, render, summary

DOCUMENT = TESTS.parent / "docs" / "performance.md"
POD = "litellm"
ALONE, BESIDE = "LiteLLM alone", "with the sidecar"
CALLERS = 8


def far_server(ground: Ground, issuer: str) -> tuple[str, str]:
    """An MCP server by TLS behind the delay: its URL, and the authority in PEM."""
    authority = Path(setting("MCPAUTH_TEST_AUTHORITY"))
    key, request, certificate = (ground.folder / f"far.{kind}" for kind in ("key", "csr", "crt"))
    extension = ground.write("far.ext", f"subjectAltName=IP:{FAR}\n")
    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=far"]
    openssl(*new, "-keyout", str(key), "-out", str(request))
    by = ["-CA", str(authority / "ca.crt"), "-CAkey", str(authority / "ca.key"), "-CAcreateserial"]
    serial = ["-CAserial", str(ground.folder / "far.srl")]
    openssl("x509", "-req", "-in", str(request), *by, *serial, "-extfile", str(extension), "-days", "1", "-out", str(certificate))
    port = ground.port()
    url = f"https://{FAR}:{port}"
    command = [setting("MCPAUTH_TEST_PYTHON"), f"{setting('MCPAUTH_TEST_PROGRAMS')}/mcp_server.py"]
    where = ["--url", url, "--issuer", issuer, "--host", NEAR, "--port", str(port)]
    tls = ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    ground.processes.start("far-mcp", [*command, *where, *tls])
    return f"{url}/mcp", (authority / "ca.crt").read_text()


def openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=LIMIT)
    if done.returncode:
        raise Broken(f"openssl {arguments[0]} failed: {done.stderr}")


def raise_up(ground: Ground) -> dict[str, str]:
    """Both arrangements, up and ready: their URLs, as users see them."""
    servers = ground.servers("tools")
    far, authority = far_server(ground, servers["issuer"])
    kubernetes.prepare(servers, [POD])
    resource = kubernetes.resource(far, servers["token"])
    resource["metadata"]["name"] = resource["spec"]["server"]["name"] = "far"
    resource["spec"]["server"]["tls"] = {"caBundle": {"configMapKeyRef": {"name": "far", "key": "ca.crt"}}}
    bundle = kubernetes.of_kind("v1", "ConfigMap", "far", data={"ca.crt": authority})
    kubernetes.apply(bundle, resource)
    ready = ["--for=condition=TokenIssued", f"--timeout={LIMIT}s"]
    kubernetes.kubectl("wait", "msa/far", "--namespace", kubernetes.NAMESPACE, *ready)
    urls = {"tools": servers["mcp"], "far": far}
    own = {
        "auth_type": "oauth2",
        "oauth2_flow": "client_credentials",
        "token_url": servers["token"],
        "client_id": kubernetes.CLIENT,
        "client_secret": "os.environ/MCP_CLIENT_SECRET",
        "token_endpoint_auth_method": "client_secret_basic",
    }
    alone = config({name: {"url": url, "upstream_resource": url} | own for name, url in urls.items()})
    file = ground.write("alone.yaml", json.dumps(alone))
    port = ground.port()
    trusted = ground.write("authority.pem", authority)
    trust = {"SSL_CERT_FILE": str(trusted), "MCP_CLIENT_SECRET": servers["secret"]}
    ground.litellm("alone", port, file, trust)
    beside = ground.injected_litellm(POD, config({name: {"url": url} for name, url in urls.items()}))
    found = {ALONE: local(port), BESIDE: beside}
    for name, url in (("alone", found[ALONE]), (POD, beside)):
        ground.processes.until_up(name, f"{url}/health/readiness")
    return found


def config(servers: dict[str, dict]) -> dict:
    common = {"transport": "http", "allow_all_keys": True}
    settings = {"master_key": "os.environ/MASTER_KEY"}
    entries = {name: entry | common for name, entry in servers.items()}
    return {"model_list": [], "general_settings": settings, "mcp_servers": entries}


async def call(callers: Callers, url: str, server: str) -> float:
    seconds, problem = await callers.call(url, server)
    if problem:
        raise Broken(f"{server} at {url}: {problem}")
    return seconds


async def rate(callers: Callers, url: str, seconds: float) -> float:
    """Calls a second of several callers, each of which makes one after the other."""
    end = time.monotonic() + seconds

    async def calling() -> int:
        number = 0
        while time.monotonic() < end:
            await call(callers, url, "tools")
            number += 1
        return number

    begun = time.monotonic()
    made = await asyncio.gather(*(calling() for _ in range(CALLERS)))
    return sum(made) / (time.monotonic() - begun)


async def measure(urls: dict[str, str], options: argparse.Namespace) -> dict[str, Times]:
    measured = {name: Times() for name in urls}
    async with browser() as session:
        callers = Callers(session, KEY, LIMIT)
        for url, server in itertools.product(urls.values(), ("tools", "far")):
            for _ in range(10):
                await call(callers, url, server)
        for number in range(options.rounds):
            # Another one goes first in each round.
            for name in list(urls)[:: -1 if number % 2 else 1]:
                times = [await call(callers, urls[name], "tools") for _ in range(options.calls)]
                measured[name].single += times
                measured[name].rates.append(await rate(callers, urls[name], options.seconds))
                say(f"round {number + 1}, {name}: {1000 * sorted(times)[len(times) // 2]:.1f} ms at the median")
        for number in range(options.silences):
            say(f"silence {number + 1} of {options.silences}")
            await asyncio.sleep(options.silence)
            for name, url in urls.items():
                measured[name].after_silence.append(await call(callers, url, "far"))
                measured[name].after_call.append(await call(callers, url, "far"))
    return measured


def say(text: str) -> None:
    print(f"   {text}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=300, help="one after the other in each round")
    parser.add_argument("--seconds", type=float, default=10, help="of calls at the same time in each round")
    parser.add_argument("--silences", type=int, default=5)
    parser.add_argument("--silence", type=float, default=61, help="seconds")
    parser.add_argument("--print", action="store_true", help="leave the document as it is")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="mcp-auth-litellm."))
    with Processes(folder) as processes:
        try:
            measured = asyncio.run(measure(raise_up(Ground(processes)), options))
        except Broken as error:
            say(f"error: {error}\n   the logs are in {folder}")
            return 1
    table = render(measured, CALLERS, options.silence)
    print(table)
    if not options.print:
        document = put_into(DOCUMENT.read_text(), table)
        sentence = summary(measured[ALONE], measured[BESIDE])
        DOCUMENT.write_text(put_into(document, sentence, SUMMARY_BEGIN, SUMMARY_END))
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
