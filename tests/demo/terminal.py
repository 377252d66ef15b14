"""How the demo speaks: steps, what was run, what was shown, and how it ends when something is not as promised."""

import json
import subprocess
import sys
import time

BOLD, DIM, GREEN, RED, CYAN, PLAIN = (
    (f"\033[{code}m" if sys.stdout.isatty() else "") for code in ("1", "2", "32", "31", "36", "0")
)


# The bound, in seconds, of all that the demo waits for: only one that fails takes so long.
LIMIT = 300


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
    """Asks once a second until there is an answer, and returns it."""
    end = time.monotonic() + LIMIT
    while not (answer := ask()):
        if time.monotonic() > end:
            raise Broken(f"not within {LIMIT} s: {promise}")
        time.sleep(1)
    return answer
