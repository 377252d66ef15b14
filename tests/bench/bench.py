"""The sidecar beside its peers: rounds, then tables. `run` starts it and says what it takes."""
import argparse
import json
import os
import signal
import sys

import document
import proxies
import soak
from cases import Cases
from processes import stop, stop_all
from settings import CACHE, PINGORA, port

PEERS = ["nginx", "haproxy", *(["pingora"] if PINGORA else [])]
# Which proxies take part, and how many seconds a measurement lasts.
PLAN = {
    "plain": (["copy", "sidecar", *PEERS], 4),
    "tls": (["sidecar", *PEERS], 4),
    "h2": (["sidecar", *PEERS], 4),
    "inbound": (["sidecar", "copy"], 4),
    "chain": (["chain", "chain-copy"], 4),
    "open": (["direct", "copy", "sidecar", *PEERS], 4),
    "sse": (["copy", "sidecar", *PEERS], 4),
    "down": (["direct", "copy", "sidecar", *PEERS], 3),
    "up": (["direct", "copy", "sidecar", *PEERS], 3),
    "memory": (["copy", "sidecar", *PEERS], 0),
    "start": (["copy", "sidecar", *PEERS], 0),
    "crowd": (["sidecar"], 0),
}
# That many connections are there or not: once is enough.
ONCE = ["crowd"]


def say(text):
    print(text, file=sys.stderr, flush=True)


def in_turn(names, number):
    """Another one begins each round, and every second round goes backwards, so that none always follows the same."""
    first = number % len(names)
    turned = names[first:] + names[:first]
    return turned if number % 2 == 0 else turned[::-1]


def take_part(running, context):
    """Sees to it that each does its job before it is measured, and which of them speak HTTP/2."""
    multiplexed = []
    for name in ["sidecar", *PEERS]:
        if proxies.protocol_of(name, "rig", context) is None:
            raise RuntimeError(f"{name} does not answer; see its log in the folder bench-run of the cache")
        version = proxies.protocol_of(name, "righ2", context)
        say(f"{name} does the job; https to an upstream with HTTP/2: {version or 'not available'}")
        if version == "HTTP/2.0":
            multiplexed.append(name)
    return multiplexed


def measure(rounds, only):
    running = {name: proxies.started(name) for name in ["copy", "sidecar", *PEERS]}
    context = proxies.sealed_context()
    multiplexed = take_part(running, context)
    proxies.relay("RELAY", port("chain"))
    proxies.relay("RELAY_COPY", port("chain-copy") + 1)
    running["chain"] = proxies.started("chain", litellm="RELAY")
    running["chain-copy"] = proxies.started("chain-copy")
    results = {}
    for case, (names, seconds) in PLAN.items():
        if only and case != only:
            continue
        if case == "h2":
            names = [name for name in names if name in multiplexed]
        measured = Cases(running, context, seconds)
        if case in ("memory", "start", "crowd"):
            # Those have processes of their own, which must not share the pages of a program with others.
            for name in list(running):
                stop(running.pop(name))
        if case in ("plain", "tls", "h2"):
            # Pools fill and caches warm.
            for name in names:
                Cases(running, context, 1).closed(name, case)
        for number in range(1 if case in ONCE else rounds):
            for name in in_turn(names, number):
                figures = measured.closed(name, case) if case in ("plain", "tls", "h2") else getattr(measured, case)(name)
                results.setdefault(case, {}).setdefault(name, []).append(figures)
                told = " ".join(f"{key} {value:.4g}" for key, value in figures.items() if value is not None)
                say(f"{case:8} {number + 1} {name:10} {told}")
    results["size"] = {name: [{"bytes": os.path.getsize(proxies.binary(name))}] for name in ["sidecar", *PEERS]}
    return results


def main():
    parser = argparse.ArgumentParser(prog="run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", choices=list(PLAN))
    parser.add_argument("--soak", type=int, metavar="REQUESTS", help="only the memory over so many requests")
    parser.add_argument("--print", action="store_true", help="leave the document as it is")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be 1 or more")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    saved = CACHE / "bench-results.json"
    try:
        if arguments.soak:
            figures, section = soak.run(arguments.soak), "soak"
            text = document.soak(figures)
        else:
            proxies.surroundings()
            results, section = measure(arguments.rounds, arguments.case), "bench"
            saved.write_text(json.dumps(results))
            text = document.bench(results, PINGORA)
        print(text)
        if not (arguments.print or arguments.case):
            document.write(section, text)
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    finally:
        stop_all()
    if arguments.soak and not figures["flat"]:
        sys.exit("error: memory is not flat; see the figures above")


main()
