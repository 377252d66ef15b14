"""Makes the tables of docs/scale.md of what was measured. With --print the document is left as it is."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

BEGIN, END = "<!-- measured by make scale -->", "<!-- end -->"
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "scale.md"
# What one replica is to stand: with two of them, 10,000 pods.
STREAMS, SERVERS = 5_000, 10
# Whatever there is: 50 TokenReviews, 16 statuses, 16 objects that are read, and some watches.
CONNECTIONS = 100


def main(results: str, *options: str) -> None:
    measured = json.loads(Path(results).read_text())
    text = tables(measured)
    print(text)
    if "--print" not in options:
        before, rest = DOCUMENT.read_text().split(BEGIN)
        _, after = rest.split(END)
        DOCUMENT.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def tables(measured: dict) -> str:
    return "\n".join([conditions(measured), goals(measured), sizes(measured), abuse(measured)])


def conditions(measured: dict) -> str:
    size = measured["sizes"]
    sidecars = measured["steps"][-1]["sidecars"]
    return f"""\
Two replicas of the operator, {size["namespaces"]} namespaces with {size["pods"]} pods and {size["resources"]} resources each, so
{number(sidecars)} sidecars with {size["resources"]} servers each, and one namespace with {number(size["large_pods"])} pods and
{size["large_resources"]} resources. API server, etcd, token endpoints and all sidecars were on the same machine, of
{os.cpu_count()} cores ({platform.machine()}), beside {load()}. The programs were those of change {change()}.
"""


def change() -> str:
    """What the programs were made of, since this page may be read beside later ones."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(DOCUMENT.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    commit = git("rev-parse", "--short=8", "HEAD")
    # The page itself may have been written before.
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/docs")
    return f"{commit} with others on top of it" if changed else commit


def load() -> str:
    return f"whatever else it did (load {os.getloadavg()[2]:.0f} over the last quarter of an hour, this measurement included)"


def goals(measured: dict) -> str:
    size, steps, large = measured["sizes"], measured["steps"], measured["large"]
    last, restart = steps[-1], measured["restart"]
    processor = max(last["processor"])
    renewals = measured["renewals"]["seconds"]
    memory = memory_at(steps, STREAMS)
    streams = last["sidecars"] // 2
    # More streams than were there are computed, in proportion to what was measured.
    is_computed = streams < STREAMS
    at_goal = processor * STREAMS / streams if is_computed else processor
    watches = size["namespaces"] + CONNECTIONS
    writes = measured["renewals"]["api_writes"]
    rows = [
        (
            f"memory of a replica with {number(STREAMS)} streams, {SERVERS} servers each",
            "≤ 200 MB",
            f"{memory:.0f} MB, {'by' if is_computed else 'with'} the {stream_kilobytes(steps):.0f} kB that each stream "
            f"takes; {number(streams)} streams were measured, with {max(last['memory']):.0f} MB",
            memory <= 200,
        ),
        (
            f"CPU at rest with {number(STREAMS)} streams",
            "≤ 0.05 of a core",
            f"{at_goal:.3f}"
            + (f", in proportion to {processor:.3f} with {number(streams)} streams" if is_computed else ""),
            at_goal <= 0.05,
        ),
        (
            "a renewed token reaches all sidecars that use it",
            "≤ 2 s",
            f"{max(renewals):.2f} s at most of {len(renewals)}",
            max(renewals) <= 2,
        ),
        (
            f"all {number(last['sidecars'])} sidecars back after a restart of the leader",
            "≤ 30 s",
            f"{restart['seconds']:.1f} s, {restart['token_reviews']} TokenReviews",
            restart["seconds"] <= 30,
        ),
        (
            "TokenReviews at once meanwhile",
            "≤ 50",
            f"{restart['token_reviews_at_once']}",
            restart["token_reviews_at_once"] <= 50,
        ),
        (
            "connections to the API server meanwhile",
            f"≤ {CONNECTIONS} and one for each of {size['namespaces']} namespaces",
            f"{restart['connections_to_api_server']}",
            restart["connections_to_api_server"] <= watches,
        ),
        (
            f"one namespace with {number(size['large_pods'])} pods and {size['large_resources']} resources: CPU per renewal",
            "≤ 20 ms",
            f"{milliseconds(large['processor_milliseconds'])}, {kilobytes(large['bytes_each'])} to each sidecar",
            large["processor_milliseconds"] is not None and large["processor_milliseconds"] <= 20,
        ),
        (
            "there, a renewed token reaches all",
            "≤ 2 s",
            f"{max(large['seconds']):.2f} s at most of {len(large['seconds'])}",
            max(large["seconds"]) <= 2,
        ),
        (
            "connections to the API server at rest",
            f"≤ {CONNECTIONS} and one for each of {size['namespaces']} namespaces",
            f"{max(last['connections_to_api_server'])}",
            max(last["connections_to_api_server"]) <= watches,
        ),
        (
            f"API writes while {len(renewals)} tokens were renewed",
            f"≤ {len(renewals)}",
            f"{writes}: {by_kind(measured['renewals']['api_writes_by_kind'])}",
            writes <= len(renewals),
        ),
        ("API writes at rest", "0", f"{last['api_writes']}", last["api_writes"] == 0),
    ]
    lines = [f"| {what} | {goal} | {value} | {'yes' if met else '**no**'} |" for what, goal, value, met in rows]
    return "\n".join(["| what | goal | measured | met |", "|---|---|---|---|", *lines, ""])


def sizes(measured: dict) -> str:
    empty = measured["empty_memory"]
    head = [
        "| sidecars | resources | memory of the leader, of the follower | at most | CPU at rest | connections to the API server "
        "| until all that came were served |",
        "|---|---|---|---|---|---|---|",
        f"| 0 | 0 | {pair(empty)} MB | | | | |",
    ]
    rows = [
        f"| {number(step['sidecars'])} | {number(step['resources'])} | {pair(step['memory'])} MB | {pair(step['peak_memory'])} MB "
        f"| {pair(step['processor'], 3)} | {pair(step['connections_to_api_server'])} | {step['connect_seconds']:.1f} s |"
        for step in measured["steps"]
    ]
    streams, resources = memory_of_each(steps := measured["steps"])
    each = (
        f"By these, each stream takes {pair(streams, 1)} kB of the leader and of a follower, with its pod's part, and each resource "
        f"{pair(resources, 1)} kB, at {number(steps[1]['sidecars'])} sidecars."
    )
    return "\n".join([*head, *rows, "", each, ""])


def abuse(measured: dict) -> str:
    silent = measured["silent"]
    junk = silent["junk"]
    return f"""\
Beside {number(measured["steps"][-1]["sidecars"])} sidecars, {number(silent["connections"])} connections that say nothing and
{number(junk["sent"])} junk tokens, {junk["sent"] / junk["sending_seconds"]:.0f} a second for {junk["sending_seconds"]:.0f} s, all at one
replica: a new sidecar had its tokens after {silent["new_sidecar_seconds"]:.2f} s, and a renewed token reached all after
{silent["renewal_seconds"]:.2f} s. {number(junk["refused"])} of the junk tokens were refused (401), {number(junk["put_off"])} of those that name a
key that is not the cluster's put off (503), {number(junk["unanswered"])} not answered, and the API server was asked about {silent["token_reviews"]};
the last answer came after {junk["answered_seconds"]:.0f} s. The replicas then had {pair(silent["memory"])} MB.
"""


def memory_at(steps: list[dict], streams: int) -> float:
    """Of a replica: as it was with as many streams as there were, and in proportion beyond."""
    last = steps[-1]
    missing = max(streams - last["sidecars"] // 2, 0)
    return max(last["memory"]) + missing * stream_kilobytes(steps) / 1000


def stream_kilobytes(steps: list[dict]) -> float:
    return max(memory_of_each(steps)[0])


def memory_of_each(steps: list[dict]) -> tuple[list[float], list[float]]:
    """Kilobytes that a stream takes of each replica, and a resource: the second step has a tenth of the resources, the third the
    others, the last the other sidecars."""
    few, all_resources, last = steps[1], steps[2], steps[-1]

    def differences(before: dict, after: dict, count: float) -> list[float]:
        pairs = zip(before["memory"], after["memory"], strict=True)
        return [(later - earlier) * 1000 / count for earlier, later in pairs]

    streams = differences(all_resources, last, (last["sidecars"] - all_resources["sidecars"]) / 2)
    resources = differences(few, all_resources, all_resources["resources"] - few["resources"] or 1)
    return streams, resources


def pair(values: list[float], digits: int = 0) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)


def number(value: int) -> str:
    return f"{value:,}"


def by_kind(writes: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in writes.items()) or "none"


def milliseconds(value: float | None) -> str:
    return "could not be told from what else went on" if value is None else f"{value:.0f} ms of both replicas"


def kilobytes(value: int) -> str:
    return f"{value / 1000:.1f} kB"


if __name__ == "__main__":
    main(*sys.argv[1:])
