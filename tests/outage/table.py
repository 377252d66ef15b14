"""From what was measured to a table in Markdown: the median of the rounds and, where they differ, their range."""

from calls import GAVE_UP
from document import spread
from situations import CALLERS, Measured, Situation

BEGIN = "<!-- what follows is written by `make outage` -->"
END = "<!-- what `make outage` writes ends here -->"
HEAD = ["situation", "who gets the tokens", "token requests", f"answered of {CALLERS}", "slowest caller, s"]
HEAD += ["answers again after, s"]

# For each situation and each arrangement, one entry a round.
Results = dict[Situation, dict[str, list[Measured]]]


def render(results: Results, patience: float) -> str:
    rows = [HEAD, ["---"] * 2 + ["---:"] * (len(HEAD) - 2)]
    for situation, stands in results.items():
        name = situation.name
        for stand, rounds in stands.items():
            rows.append([name, stand, *cells(situation, rounds, patience)])
            name = ""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cells(situation: Situation, rounds: list[Measured], patience: float) -> list[str]:
    def slowest(measured: Measured) -> float:
        return float("inf") if GAVE_UP in measured.burst.failures else measured.burst.slowest

    def recovery(measured: Measured) -> float:
        return float("inf") if measured.recovery is None else measured.recovery

    def seconds(value: float) -> str:
        return f"> {patience:g}" if value > patience else f"{value:.1f}"

    return [
        spread([measured.token_requests for measured in rounds], "{:g}".format),
        spread([measured.burst.answered for measured in rounds], "{:g}".format),
        spread([slowest(measured) for measured in rounds], seconds),
        "" if situation.fault_lasts is None else spread([recovery(measured) for measured in rounds], seconds),
    ]
