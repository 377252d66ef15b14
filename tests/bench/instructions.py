"""Instructions of one request, by callgrind: the difference of two run lengths, so that start and end drop out, and of
the worker's thread alone, so that what the sidecar does once a second drops out too. `instructions` starts it."""
import argparse
import json
import re
import subprocess
import sys

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
        """Instructions of the worker during so many requests, and the file that has them by function."""
        at = port("sidecar") + (0 if half == "outbound" else 1)
        sealed = ["--context", context] if half == "outbound" else []
        self._control("--zero")
        load = [RIG, "load", *sealed, "count", "--requests", str(requests), f"127.0.0.1:{at}/rig/mcp"]
        subprocess.run(load, check=True, capture_output=True, timeout=300)
        # The main thread reads the machine's sockets once a second, which takes as long as there are many.
        others = "callgrind.out.*-0[!1]"
        before = set(self._out.parent.glob(others))
        self._control("--dump")
        threads = {file: _total(file) for file in set(self._out.parent.glob(others)) - before}
        if not threads:
            raise RuntimeError("callgrind wrote nothing; see sidecar/log in the folder bench-run of the cache")
        file = max(threads, key=threads.get)
        return threads[file], file

    def _control(self, what):
        subprocess.run(["callgrind_control", what, str(self._process.pid)], check=True, capture_output=True, timeout=60)


def measured(profile):
    callgrind = Callgrind()
    context = sealed_context()
    counts = {}
    for half in ("outbound", "inbound"):
        callgrind.count(half, WARM_UP, context)
        short, _ = callgrind.count(half, SHORT, context)
        long, file = callgrind.count(half, LONG, context)
        counts[half] = round((long - short) / (LONG - SHORT))
        if profile:
            print(f"{half}:\n{_by_function(file)}")
    return counts


def sealed_context():
    """What the inbound half sends to the upstream that stands in for LiteLLM."""
    _, body = proxies.exchange(f"127.0.0.1:{port('sidecar') + 1}", "/rig/echo")
    return dict(json.loads(body)["headers"])["mcpauth-context"]


def compare(counts, baseline):
    """Lines for people, and whether all holds."""
    tolerance, lines, holds = baseline["tolerance_percent"], [], True
    for half, count in counts.items():
        expected = baseline[half]
        percent = 100 * (count - expected) / expected
        lines.append(f"{half}: {count:,} instructions a request, {percent:+.1f} % to the {expected:,} of {BASELINE.name}")
        if percent > tolerance:
            holds = False
            lines.append(
                f"error: the {half} half takes more than {tolerance} % more instructions than before. `make instructions PROFILE=1` "
                "tells which functions take them. If they are worth it, `make instructions UPDATE=1` and commit the file"
            )
        elif percent < -tolerance:
            lines.append(f"the {half} half has become cheaper: `make instructions UPDATE=1` and commit the file, so that it stays so")
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
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {"tolerance_percent": 3, **counts}
    lines, holds = compare(counts, baseline)
    print("\n".join(lines))
    if arguments.update:
        BASELINE.write_text(json.dumps({**baseline, **counts}, indent=2) + "\n")
        print(f"{BASELINE.name} is written")
    elif not holds:
        sys.exit(1)


if __name__ == "__main__":
    main()
