"""Times of calls, and the table made of them."""

import statistics
from dataclasses import dataclass, field

BEGIN, END = "<!-- litellm: written by make bench -->", "<!-- litellm: end -->"
# The sentence at the head of the page, which says the same as the table.
SUMMARY_BEGIN, SUMMARY_END = "<!-- summary: written by make bench -->", "<!-- summary: end -->"


@dataclass
class Times:
    """Of one arrangement, in seconds."""

    single: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    after_silence: list[float] = field(default_factory=list)
    after_call: list[float] = field(default_factory=list)


def percentile(times: list[float], share: float) -> float:
    """
    >>> percentile([3.0, 1.0, 2.0], 0.5), percentile([1.0, 2.0], 0.99)
    (2.0, 2.0)
    """
    return sorted(times)[min(int(len(times) * share), len(times) - 1)]


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"


def spread(times: list[float]) -> str:
    """
    >>> spread([0.1, 0.2, 0.4])
    '200.0 (100.0–400.0)'
    """
    return f"{milliseconds(statistics.median(times))} ({milliseconds(min(times))}–{milliseconds(max(times))})"


def render(measured: dict[str, Times], callers: int, silence: float) -> str:
    lines = [
        f"|  | p50 ms | p99 ms | calls/s, {callers} callers | far server, {silence:.0f} s of silence: ms | at once after that: ms |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, times in measured.items():
        cells = [
            milliseconds(percentile(times.single, 0.5)),
            milliseconds(percentile(times.single, 0.99)),
            f"{statistics.median(times.rates):.0f} ({min(times.rates):.0f}–{max(times.rates):.0f})",
            spread(times.after_silence) if times.after_silence else "not measured",
            spread(times.after_call) if times.after_call else "not measured",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def summary(alone: Times, with_sidecar: Times) -> str:
    """
    >>> print(summary(Times(single=[0.028, 0.041]), Times(single=[0.0295, 0.0405])))
    **What users notice**: a tool call through LiteLLM takes 40.5 ms with the sidecar and 41.0 ms without at the median, 40.5 and 41.0 ms at
    p99 ([measured](#a-tool-call-through-litellm)).
    """
    (with_median, with_p99), (median, p99) = (
        [milliseconds(percentile(times.single, share)) for share in (0.5, 0.99)] for times in (with_sidecar, alone)
    )
    return (
        f"**What users notice**: a tool call through LiteLLM takes {with_median} ms with the sidecar and {median} ms without at the median,"
        f" {with_p99} and {p99} ms at\np99 ([measured](#a-tool-call-through-litellm))."
    )


def put_into(document: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """
    >>> put_into(f"before\\n{BEGIN}\\nold\\n{END}\\nafter", "new").split("\\n")
    ['before', '<!-- litellm: written by make bench -->', 'new', '<!-- litellm: end -->', 'after']
    """
    before, _, rest = document.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"the document has no place for what stands behind '{begin}'")
    return f"{before}{begin}\n{text}\n{end}{after}"
