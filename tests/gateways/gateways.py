#!/usr/bin/env python3
"""Puts gateways, LiteLLM's own OAuth2 and mcp-auth between a LiteLLM and an MCP server each, counts what comes of it, and
writes the table into docs/comparison.md, if it has a column for each gateway that the document has one for. Fails if mcp-auth
did what it must not do. Needs what `make gateways` prepares.
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
from document import part_of, put_into
from ground import Ground
from phases import SHORT, Found, Phases, problems
from processes import Broken, Processes
from table import BEGIN, END, missing_columns, render

DOCUMENT = TESTS.parent / "docs" / "comparison.md"


async def measure(candidates: list[Candidate], processes: Processes, rounds: int) -> tuple[list[tuple[Candidate, Found]], float]:
    """What was found, and the part of the time that the machine's processors had nothing to do when nobody called."""
    async with browser() as session:
        phases = Phases(session, processes)
        # At the same time, since most of it is waiting; and one after another what takes the processors.
        found_of = await asyncio.gather(*(phases.found(candidate, rounds) for candidate in candidates))
        results = list(zip(candidates, found_of))
        at_rest, idle = await phases.at_rest(candidates)
        for candidate, found in results:
            if candidate.process:
                found.effort = await phases.effort(candidate, at_rest[candidate.name])
        rejections = await asyncio.gather(*(phases.rejection(candidate) for candidate in candidates))
        for (_, found), rejection in zip(results, rejections):
            found.rejection = rejection
        return results, idle


def surroundings(idle: float) -> str:
    return (
        f"oidc-provider {os.environ['MCPAUTH_GATEWAYS_OAUTH_VERSION']}, Python {platform.python_version()}, mcp-auth's sidecar "
        f"{os.environ['MCPAUTH_GATEWAYS_SIDECAR_BUILD']}; {os.cpu_count()} cores, all on loopback, which had nothing to do for "
        f"{idle:.0%} of the time while nobody called."
    )


def say(text: str) -> None:
    print(f"   {text}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--print", action="store_true", help="leave the document as it is")
    parser.add_argument("--rounds", type=int, default=3, help="of outages; with less than three the document stays as it is")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least one outage is needed")
    return options


def main() -> int:
    options = arguments()
    # Whoever ends this program ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="mcp-auth-gateways."))
    try:
        with Processes(folder) as processes:
            say("starting a LiteLLM for each candidate (about a minute)")
            candidates = raise_up(Ground(processes), SHORT)
            say(f"measuring {', '.join(candidate.name for candidate in candidates)} (about {5 + options.rounds} minutes)")
            results, idle = asyncio.run(measure(candidates, processes, options.rounds))
    except Broken as error:
        say(f"error: {error}")
        say(f"the logs are in {folder}")
        return 1
    except Exception:
        say(f"the logs are in {folder}")
        raise
    text = f"{render(results)}\n\n{surroundings(idle)}"
    print(text, flush=True)
    broken = [problem for candidate, found in results if candidate.is_ours for problem in problems(found)]
    if broken:
        say("mcp-auth did what it must not do:\n" + "\n".join(f"   - {each}" for each in broken))
        say(f"the logs are in {folder}")
        return 1
    missing = missing_columns(part_of(DOCUMENT, BEGIN, END), results)
    if missing:
        say(f"{DOCUMENT.name} stays as it is: it has a column for {', '.join(missing)}, and this run has none; see above why")
    elif not options.print and options.rounds >= 3:
        put_into(DOCUMENT, BEGIN, END, text)
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
