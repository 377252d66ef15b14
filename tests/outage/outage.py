#!/usr/bin/env python3
"""Measures LiteLLM getting its tokens itself beside LiteLLM with mcp-auth, through the same outages, and writes the
table into docs/outage.md. Fails if mcp-auth did in any of them what it must not do. Needs what `make outage` prepares.
"""

import argparse
import asyncio
import importlib.metadata
import os
import platform
import shutil
import signal
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "loopback"))

from authority import Authority
from calls import Callers, browser
from document import put_into
from ground import KEY, Ground
from processes import Broken, Processes
from situations import SITUATIONS, Bench, Measured, Situation
from stands import Stand, raise_up
from table import BEGIN, END, Results, render
from verdict import broken

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "outage.md"


async def measure(stands: list[Stand], options: argparse.Namespace) -> tuple[Results, list[str]]:
    chosen = [each for each in SITUATIONS if options.only in each.name]
    results: Results = {each: {stand.name: [] for stand in stands} for each in chosen}
    problems = []
    async with browser() as session:
        bench = Bench(Callers(session, KEY, options.patience))
        authorities = {stand.name: Authority(session, stand.authority) for stand in stands}
        for stand in stands:
            await bench.warm_up(stand)
        for number, situation in plan(chosen, options.rounds):
            # Another one goes first in each round.
            order = stands[number % len(stands) :] + stands[: number % len(stands)]
            measuring = (bench.measure(situation, stand, authorities[stand.name]) for stand in order)
            for stand, measured in zip(order, await asyncio.gather(*measuring)):
                results[situation][stand.name].append(measured)
                say(f"round {number + 1}, {situation.name}, {stand.name}: {told(measured)}")
                if stand.is_ours:
                    problems += [f"{situation.name}: {problem}" for problem in broken(situation, measured)]
    return results, problems


def plan(chosen: list[Situation], rounds: int) -> list[tuple[int, Situation]]:
    """Round for round; what is measured in fewer rounds comes last."""
    many = [(number, each) for number in range(rounds) for each in chosen if each.rounds is None]
    return many + [(number, each) for each in chosen for number in range(min(each.rounds or 0, rounds))]


def told(measured: Measured) -> str:
    burst = measured.burst
    recovery = "" if measured.recovery is None else f", answers again after {measured.recovery:.2f} s"
    said = "".join(f"\n      {count} times {problem}" for problem, count in burst.failures.most_common(2))
    return (
        f"{measured.token_requests} token requests in {measured.seconds:.1f} s, {burst.answered} of {burst.calls} "
        f"answered, the slowest after {burst.slowest:.2f} s{recovery}{said}"
    )


def versions(rounds: int) -> str:
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("litellm", "mcp"))
    cores = os.cpu_count()
    return (
        f"{packages}, oidc-provider {os.environ['MCPAUTH_OUTAGE_OAUTH_VERSION']}, mcp-auth "
        f"{os.environ['MCPAUTH_OUTAGE_VERSION']}, Python {platform.python_version()}; {cores} cores, all on loopback; "
        f"medians of {rounds} rounds, in parentheses the range; the last situation once."
    )


def say(text: str) -> None:
    print(f"   {text}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patience", type=float, default=60, help="seconds that a caller waits for an answer")
    only = "the situations that have this in their names; the document stays as it is"
    parser.add_argument("--only", default="", metavar="TEXT", help=only)
    return parser.parse_args()


def main() -> int:
    options = arguments()
    # Whoever ends this program ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="mcp-auth-outage."))
    try:
        with Processes(folder) as processes:
            say("starting both arrangements with 4 LiteLLMs each (about half a minute)")
            stands = raise_up(Ground(processes), 4)
            results, problems = asyncio.run(measure(stands, options))
    except Broken as error:
        say(f"error: {error}")
        return 1
    text = f"{render(results, options.patience)}\n\n{versions(options.rounds)}"
    print(text, flush=True)
    if problems:
        say("mcp-auth did what it must not do:\n" + "\n".join(f"   - {each}" for each in problems))
        say(f"the logs are in {folder}")
        return 1
    if not options.only:
        put_into(DOCUMENT, BEGIN, END, text)
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
