"""How the demo speaks: steps, what was run, what was shown, and how it ends when something is not as promised."""

import itertools
import json
import subprocess
import sys
import time

BOLD, DIM, GREEN, RED, CYAN, PLAIN = (
    (f"\033[{code}m" if sys.stdout.isatty() else "") for code in ("1", "2", "32", "31", "36", "0")
)


# The bound, in seconds, of all that the demo waits for: only one that fails takes so long.
LIMIT = 300
# Between two questions: short at first, for what is nearly there, and then as long as costs nothing.
PAUSES = [0.1, 0.2, 0.3, 0.5]
LONGEST_PAUSE = 1


class Broken(Exception):
    """What was promised is not so."""


def step(number: int, title: str) -> None:
    print(f"\n{BOLD}{CYAN}{number}. {title}{PLAIN}", flush=True)


def note(text: str) -> None:
    print(f"   {text}", flush=True)


def shown(text: str) -> None:
    for line in text.rstrip().splitlines():
        print(f"     {DIM}{line}{PLAIN}", flush=True)


def check(holds: bool, promise: str, found: object = None) -> None:
    if not holds:
        detail = f"\nfound: {found if isinstance(found, str) else json.dumps(found, indent=2)}" if found else ""
        raise Broken(f"{promise}{detail}")
    print(f"   {GREEN}✓{PLAIN} {promise}", flush=True)


def run(*command: str, text: str | None = None, show: bool = False, may_fail: bool = False) -> str:
    """Runs a command to its end and returns what it printed."""
    if show:
        note(f"{BOLD}${PLAIN} {' '.join(command)}")
    result = subprocess.run(command, input=text, capture_output=True, text=True, timeout=600)
    if result.returncode and not may_fail:
        raise Broken(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    if show:
        shown(result.stdout + result.stderr)
    return result.stdout


def until(promise: str, ask):
    """Asks until there is an answer, and returns it."""
    end = time.monotonic() + LIMIT
    pauses = itertools.chain(PAUSES, itertools.repeat(LONGEST_PAUSE))
    while not (answer := ask()):
        if time.monotonic() > end:
            raise Broken(f"not within {LIMIT} s: {promise}")
        time.sleep(next(pauses))
    return answer
