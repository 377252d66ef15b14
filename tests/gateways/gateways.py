#!/usr/bin/env python3
"""Puts gateways, LiteLLM's own OAuth2 and mcp-auth between a LiteLLM and an MCP server each, counts what comes of it, and
writes the table into docs/comparison.md. Fails if mcp-auth did what it must not do. Needs what `make gateways` prepares.
"""

import argparse
import asyncio
import os
import platform
import shutil
import signal
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "loopback"), str(TESTS / "outage")]

from calls import browser
from candidates import Candidate, raise_up
from document import put_into
from ground import Ground
from phases import SHORT, Found, Phases, problems
from processes import Broken, Processes
from table import BEGIN, END, render

DOCUMENT = TESTS.parent / "docs" / "comparison.md"


async def measure(candidates: list[Candidate], processes: Processes) -> list[tuple[Candidate, Found]]:
    async with browser() as session:
        phases = Phases(session, processes)
        # At the same time, since most of it is waiting; and one after another what takes the processors.
        results = list(zip(candidates, await asyncio.gather(*(phases.found(candidate) for candidate in candidates))))
        for candidate, found in results:
            found.processor_time = await phases.processor_time(candidate)
        rejections = await asyncio.gather(*(phases.rejection(candidate) for candidate in candidates))
        for (_, found), rejection in zip(results, rejections):
            found.rejection = rejection
        return results


def surroundings() -> str:
    return (
        f"oidc-provider {os.environ['MCPAUTH_GATEWAYS_OAUTH_VERSION']}, Python {platform.python_version()}; "
        f"{os.cpu_count()} cores, all on loopback."
    )


def say(text: str) -> None:
    print(f"   {text}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--print", action="store_true", help="leave the document as it is")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    # Whoever ends this program ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="mcp-auth-gateways."))
    try:
        with Processes(folder) as processes:
            say("starting a LiteLLM for each candidate (about a minute)")
            candidates = raise_up(Ground(processes), SHORT)
            say(f"measuring {', '.join(candidate.name for candidate in candidates)} (about four minutes)")
            results = asyncio.run(measure(candidates, processes))
    except Broken as error:
        say(f"error: {error}")
        say(f"the logs are in {folder}")
        return 1
    text = f"{render(results)}\n\n{surroundings()}"
    print(text, flush=True)
    broken = [problem for candidate, found in results if candidate.is_ours for problem in problems(found)]
    if broken:
        say("mcp-auth did what it must not do:\n" + "\n".join(f"   - {each}" for each in broken))
        say(f"the logs are in {folder}")
        return 1
    if not options.print:
        put_into(DOCUMENT, BEGIN, END, text)
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
