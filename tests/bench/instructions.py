"""Instructions of one request, by callgrind: the difference of two run lengths, so that start and end drop out, and of
the worker's thread alone, so that what the sidecar does once a second drops out too. An audit line is another thread's, and
counts by itself. `instructions` starts it."""
import argparse
import json
import re
import subprocess
import sys
import time
import urllib.request

import proxies
from processes import start, stop_all, wait_for_port
from settings import FOLDER, RIG, RUN, SIDECAR, port

BASELINE = FOLDER / "instructions.json"
WARM_UP, SHORT, LONG = 300, 500, 2500


class Callgrind:
    """A sidecar under callgrind, with the rig's upstream as MCP server and as LiteLLM."""

    def __init__(self):
        self._out = RUN / "sidecar" / "callgrind.out"
        for old in self._out.parent.glob("callgrind.out*"):
            old.unlink()
        argv, environment = proxies.command("sidecar", "UP_RIG")
        tool = ["valgrind", "--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={self._out}"]
        self._process = start(tool + argv, None, environment, RUN / "sidecar" / "log")
        wait_for_port(port("sidecar"), self._process, 60)
        # Users can connect once it has seen that LiteLLM listens.
        wait_for_port(port("sidecar") + 1, self._process, 60)
        proxies.wait_for_token("sidecar")

    def count(self, half, requests, context):
        """Files that have instructions by function during so many requests: of the worker, and of the thread that writes
        audit lines, once it has written those of all requests."""
        at = port("sidecar") + (0 if half == "outbound" else 1)
        sealed = ["--context", context] if half == "outbound" else []
        lines = self._audit_lines()
        self._control("--zero")
        load = [RIG, "load", *sealed, "count", "--requests", str(requests), f"127.0.0.1:{at}/rig/mcp"]
        subprocess.run(load, check=True, capture_output=True, timeout=300)
        expected = lines + (requests if half == "outbound" else 0)
        self._wait_for_lines(expected)
        # The main thread reads the machine's sockets once a second, which takes as long as there are many.
        others = "callgrind.out.*-0[!1]"
        before = set(self._out.parent.glob(others))
        self._control("--dump")
        threads = sorted(set(self._out.parent.glob(others)) - before, key=_total)
        if not threads:
            raise RuntimeError("callgrind wrote nothing; see sidecar/log in the folder bench-run of the cache")
        worker = threads.pop()
        writers = [file for file in threads if "audit" in file.read_text(errors="replace")]
        if half == "outbound" and not writers:
            raise RuntimeError("no thread has written audit lines, which outbound requests are to have")
        return worker, writers[-1] if writers else None

    def _audit_lines(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{port('sidecar') + 2}/metrics", timeout=60) as answer:
            metrics = answer.read().decode()
        return int(re.search(r"^mcpauth_sidecar_audit_lines_total (\d+)", metrics, re.M)[1])

    def _wait_for_lines(self, number):
        for _ in range(600):
            if self._audit_lines() >= number:
                return
            time.sleep(0.1)
        raise RuntimeError(f"{number} audit lines were not written within a minute")

    def _control(self, what):
        subprocess.run(["callgrind_control", what, str(self._process.pid)], check=True, capture_output=True, timeout=60)


def measured(profile):
    callgrind = Callgrind()
    context = sealed_context()
    counts = {}
    for half in ("outbound", "inbound"):
        callgrind.count(half, WARM_UP, context)
        short = callgrind.count(half, SHORT, context)
        long = callgrind.count(half, LONG, context)
        for part, few, many in zip((half, "audit line"), short, long):
            if half == "inbound" and part != half:
                continue
            counts[part] = round((_total(many) - _total(few)) / (LONG - SHORT))
            if profile:
                print(f"{part}:\n{_by_function(many)}")
    return counts


def sealed_context():
    """What the inbound half sends to the upstream that stands in for LiteLLM."""
    _, body = proxies.exchange(f"127.0.0.1:{port('sidecar') + 1}", "/rig/echo")
    return dict(json.loads(body)["headers"])["mcpauth-context"]


def compare(counts, baseline, tolerance):
    """Lines for people, and whether all holds."""
    lines, holds = [], True
    for half, count in counts.items():
        expected = baseline.get(half)
        if not expected:
            holds = False
            lines.append(f"{half}: {count:,} instructions, of which {BASELINE.name} says nothing yet: add UPDATE=1 to the command")
            continue
        percent = 100 * (count - expected) / expected
        lines.append(f"{half}: {count:,} instructions, {percent:+.1f} % to the {expected:,} of {BASELINE.name}")
        if percent > tolerance:
            holds = False
            lines.append(
                f"error: {half} takes more than {tolerance} % more instructions than before. With PROFILE=1 the same command "
                "tells which functions take them. If they are worth it, add UPDATE=1 and commit the file"
            )
        elif percent < -tolerance:
            lines.append(f"{half} has become cheaper: add UPDATE=1 to the command and commit the file, so that it stays so")
    return lines, holds


def _total(file):
    return int((re.findall(r"^(?:summary|totals): (\d+)", file.read_text(errors="replace"), re.M) or [0])[-1])


def _by_function(file):
    said = subprocess.run(["callgrind_annotate", "--threshold=100", str(file)], capture_output=True, text=True).stdout
    # What was running when counting began is said to have taken all.
    lines = [line for line in said.splitlines() if re.match(r"\s*[\d,]+ \(", line) and "(100.0%)" not in line]
    return "\n".join(re.sub(r" \[/.*| \?\?\?:", "", line)[:160] for line in lines[:60])


def main():
    parser = argparse.ArgumentParser(prog="instructions")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    try:
        proxies.surroundings()
        counts = measured(arguments.profile)
    except (RuntimeError, subprocess.SubprocessError) as error:
        sys.exit(f"error: {error}")
    finally:
        stop_all()
    build = "quick" if arguments.quick else "guided"
    baseline = json.loads(BASELINE.read_text())
    lines, holds = compare(counts, baseline.get(build, {}), baseline["tolerance_percent"])
    print("\n".join(lines))
    if arguments.update:
        BASELINE.write_text(json.dumps({**baseline, build: counts}, indent=2) + "\n")
        print(f"{BASELINE.name} is written")
    elif not holds:
        sys.exit(1)


if __name__ == "__main__":
    main()
