"""Tables of docs/performance.md: medians with their spread, ratios, and the goals with what came of them."""
import json
import statistics

from cases import CROWD, INJECTED_MEMORY
from settings import FOLDER, REPOSITORY

FILE = REPOSITORY / "docs/performance.md"
# Share of the proxy's processor that others may use for a run to count as undisturbed.
QUIET = 0.1
SHOWN = {"direct": "no proxy", "copy": "TCP copy (floor)", "sidecar": "**mcp-auth**", "nginx": "nginx", "haproxy": "haproxy", "pingora": "pingora"}


def write(section, text):
    begin, end = f"<!-- {section}: written by make bench -->", f"<!-- {section}: end -->"
    old = FILE.read_text()
    if begin not in old or end not in old:
        raise RuntimeError(f"{FILE} has no place for the tables: put '{begin}' and '{end}' on lines of their own")
    before, rest = old.split(begin, 1)
    FILE.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end, 1)[1]}")


class Figures:
    """What the rounds of one run told."""

    def __init__(self, results):
        self._results = results

    def all(self, case, name, key):
        return [row[key] for row in self._results.get(case, {}).get(name, []) if row.get(key) is not None]

    def median(self, case, name, key):
        values = self.all(case, name, key)
        return statistics.median(values) if values else None

    def cell(self, case, name, key, digits=1):
        values = self.all(case, name, key)
        if not values:
            return "–"
        middle = f"{statistics.median(values):,.{digits}f}"
        if len(values) == 1:
            return middle
        return f"{middle} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"

    def ratio(self, case, key, one, other):
        """The median of the ratios within each round: what disturbs a round disturbs both."""
        pairs = list(zip(self.all(case, one, key), self.all(case, other, key)))
        return statistics.median(a / b for a, b in pairs if b) if pairs else None

    def failed(self):
        return [
            f"{case} of {name}: {row['failed']:.0f}"
            for case, names in self._results.items()
            for name, rows in names.items()
            for row in rows
            if row.get("failed")
        ]

    def others(self):
        values = [row["others"] for names in self._results.values() for rows in names.values() for row in rows if "others" in row]
        return statistics.median(values) if values else 0.0

    def rounds(self):
        return max(len(rows) for names in self._results.values() for rows in names.values())


def bench(results, pingora):
    seen = Figures(results)
    names = [name for name in SHOWN if name != "pingora" or pingora]
    columns = [
        ("plain: CPU µs/request", lambda name: seen.cell("plain", name, "us")),
        ("requests/s", lambda name: seen.cell("plain", name, "rate", 0)),
        ("TLS upstream: µs", lambda name: seen.cell("tls", name, "us")),
        ("HTTP/2 upstream: µs", lambda name: seen.cell("h2", name, "us")),
        ("SSE: µs/event", lambda name: seen.cell("sse", name, "us")),
    ]
    more = [
        ("p50 µs at 1,000/s", lambda name: seen.cell("open", name, "p50", 0)),
        ("p99 µs", lambda name: seen.cell("open", name, "p99", 0)),
        ("10 MB down MB/s", lambda name: seen.cell("down", name, "rate", 0)),
        ("10 MB up MB/s", lambda name: seen.cell("up", name, "rate", 0)),
    ]
    still = [
        ("idle PSS MB", lambda name: seen.cell("memory", name, "idle")),
        ("1,000 connections PSS MB", lambda name: seen.cell("memory", name, "thousand")),
        ("start to first answer ms", lambda name: seen.cell("start", name, "answered", 0)),
        ("to the first from upstream ms", lambda name: seen.cell("start", name, "passed", 0)),
        ("binary MB", lambda name: f"{results['size'][name][0]['bytes'] / 1e6:.1f}" if name in results["size"] else "–"),
    ]
    head = (
        f"Rounds: {seen.rounds()}, interleaved. Medians, and the least and the greatest in brackets. Others used "
        f"{100 * seen.others():.0f} % of the proxy's processor (median of all measurements)."
    )
    if seen.others() > QUIET:
        head += (
            " **The machine was not quiet**: what others do evicts caches, which costs those most that have the most code, and "
            "delays all that is measured in time. Ratios below are worse than on a quiet machine."
        )
    parts = [head, _table(names, columns), _table(names, more), _table(names, still), _whole(seen), _goals(seen, results)]
    if not pingora:
        parts.append("pingora could not be built here, so it is not in the tables.")
    if "h2" in results or seen.all("plain", "sidecar", "us"):
        if not seen.all("h2", "sidecar", "us"):
            parts.append("HTTP/2 upstream: not available in this build of the sidecar.")
    if failed := seen.failed():
        parts.append("Failures: " + "; ".join(failed) + ".")
    return "\n\n".join(part for part in parts if part)


def soak(figures):
    rows = "\n".join(f"| {row['requests']:,} | {row['pss']:.2f} |" for row in figures["samples"])
    counts = ", ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in figures["counts"].items())
    return (
        f"Answers: {counts}. {figures['tokens']:,} tokens in turn. After the first tenth PSS grows by {figures['slope']:+.2f} MB "
        f"in a million requests (a regression over {len(figures['samples'])} samples; less than {figures['slope_limit']} is flat), "
        f"and at the end it is {figures['last']:.1f} MB (bound: {figures['level_limit']} MB). "
        f"{'Flat.' if figures['flat'] else '**Not flat.**'}\n\n| requests | PSS MB |\n|---|---|\n{rows}"
    )


def _table(names, columns):
    rows = [[SHOWN[name], *(cell(name) for _, cell in columns)] for name in names]
    rows = [row for row in rows if any(cell != "–" for cell in row[1:])]
    if not rows:
        return ""
    titles = ["", *(title for title, _ in columns)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [titles, ["---"] * len(titles), *rows])


def _whole(seen):
    inbound, chain, floor = (seen.cell(case, name, "us") for case, name in (("inbound", "sidecar"), ("chain", "chain"), ("chain", "chain-copy")))
    if chain == "–":
        return ""
    return (
        f"Both halves: inbound alone {inbound} µs a request; inbound, stand-in for LiteLLM and outbound {chain} µs; a TCP "
        f"copy in both places {floor} µs."
    )


def _goals(seen, results):
    def of(case, key, one="sidecar", other="nginx"):
        return seen.ratio(case, key, one, other)

    inbound, outbound, floor = (seen.median(case, name, "us") for case, name in (("inbound", "sidecar"), ("plain", "sidecar"), ("plain", "copy")))
    both = (inbound + outbound) / floor if inbound and outbound and floor else None
    # A chain has two hops of copying.
    chained = of("chain", "us", "chain", "chain-copy")
    direct, ours, nginx = (seen.median("open", name, "p50") for name in ("direct", "sidecar", "nginx"))
    best = min((value for name in ("nginx", "haproxy", "pingora") if (value := seen.median("open", name, "p99"))), default=None)
    p99 = seen.median("open", "sidecar", "p99")
    counted = json.loads((FOLDER / "instructions.json").read_text()).get("guided", {})
    goals = [
        ("1", "CPU of an outbound request, to nginx", "≤ 1.10", of("plain", "us"), lambda it: it <= 1.10),
        ("1", "the same with TLS upstream, to nginx", "≤ 1.00", of("tls", "us"), lambda it: it <= 1.00),
        ("2", "CPU of both halves, each measured alone and added up, to one hop of TCP copy", "≤ 3.5", both, lambda it: it <= 3.5),
        ("2", "CPU of both halves as a chain through the stand-in for LiteLLM, to one of the two hops of a TCP copy in both places", "≤ 3.5", 2 * chained if chained else None, lambda it: it <= 3.5),
        ("3", "p50 added at 1,000 requests/s, to nginx", "≤ 1.00", (ours - direct) / (nginx - direct) if ours and nginx and direct else None, lambda it: it <= 1.0),
        ("3", "p99 at 1,000 requests/s, to the best peer", "≤ 1.10 (noise)", p99 / best if p99 and best else None, lambda it: it <= 1.10),
        ("4", "CPU of an SSE event, to TCP copy", "≤ 1.5", of("sse", "us", other="copy"), lambda it: it <= 1.5),
        ("5", "10 MB down, to nginx", "≥ 2", of("down", "rate"), lambda it: it >= 2),
        ("5", "10 MB down, to no proxy", "≥ 0.85", of("down", "rate", other="direct"), lambda it: it >= 0.85),
        ("5", "10 MB up, to nginx", "≥ 2", of("up", "rate"), lambda it: it >= 2),
        ("5", "10 MB up, to no proxy", "≥ 0.85", of("up", "rate", other="direct"), lambda it: it >= 0.85),
        ("6", "idle PSS, MB", "≤ 6", seen.median("memory", "sidecar", "idle"), lambda it: it <= 6),
        ("6", "PSS with 1,000 connections, MB", "≤ 20", seen.median("memory", "sidecar", "thousand"), lambda it: it <= 20),
        *_crowd(results),
        ("7", "start to first answer, ms", "≤ 50", seen.median("start", "sidecar", "answered"), lambda it: it <= 50),
        ("7", "stripped binary, MB", "≤ 12", results["size"]["sidecar"][0]["bytes"] / 1e6, lambda it: it <= 12),
        *(
            ("8", f"instructions of an {half} request, by `make instructions`", "≤ 40,000", counted.get(half), lambda it: it <= 40_000)
            for half in ("outbound", "inbound")
        ),
    ]
    rows = [
        f"| {number} | {what} | {goal} | {_shown(value)} | {'yes' if holds(value) else '**no**'} |"
        for number, what, goal, value, holds in goals
        if value is not None
    ]
    return "\n".join(["| | goal | bound | measured | met |", "|---|---|---|---|---|", *rows])


def _shown(value):
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


def _crowd(results):
    """Rows of the connections that wait, of which there is one measurement."""
    for seen in results.get("crowd", {}).get("sidecar", []):
        if seen["held"] is None:
            text, held = "not measured: no memory cgroup can be made here", False
        else:
            peak = "" if seen["peak"] is None else f", {seen['peak']:.1f} MiB at most"
            text = f"{seen['held']:,} held{peak}, PSS {seen['pss']:.1f} MiB, at the limit {seen['at_limit']} times"
            held = seen["held"] >= seen["wanted"] and not seen["at_limit"]
            if seen["held"] + seen["failed"] < seen["wanted"]:
                text += f"; a limit of {seen['files']:,} open files lets no more in here"
        yield ("6", f"{CROWD:,} idle connections within the {INJECTED_MEMORY >> 20} MiB that injection sets", f"{CROWD:,}", text, lambda _, held=held: held)
