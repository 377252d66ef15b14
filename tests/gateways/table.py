"""From what was found to a table in Markdown: a row for each question, a column for each candidate."""

from candidates import Candidate
from phases import COOKIES, OUTAGE_SECONDS, REJECTION_SECONDS, SHORT, STEADY_SECONDS, Counted, Found

BEGIN = "<!-- what follows is written by `make gateways` -->"
END = "<!-- what `make gateways` writes ends here -->"


def render(results: list[tuple[Candidate, Found]]) -> str:
    rows = {
        "LiteLLM finds the tools when it starts": lambda found: "yes" if found.discovered else "no",
        f"{STEADY_SECONDS} s of calls with tokens that live {SHORT} s": lambda found: steady(found.steady),
        f"the authorization server answers 503 for {OUTAGE_SECONDS} s": lambda found: outage(found.outage),
        "once it is back": lambda found: back(found.outage),
        f"the MCP server rejects the token, {REJECTION_SECONDS} s of calls": lambda found: steady(found.rejection),
        f"of {len(COOKIES)} cookies arrive": lambda found: cookies(found.cookies),
        "processor time for each request": lambda found: microseconds(found.processor_time),
    }
    head = ["", *(heading(candidate) for candidate, _ in results)]
    lines = [head, ["---"] * len(head)]
    lines += [[question, *(cell(found) for _, found in results)] for question, cell in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def heading(candidate: Candidate) -> str:
    return f"{candidate.name} {candidate.version}"


def steady(counted: Counted) -> str:
    """
    >>> steady(Counted(120, 118, 6, 2))
    '118 of 120 answered, 6 token requests, 2 answers 401'
    >>> steady(Counted(40, 40, 1, 0))
    '40 of 40 answered, 1 token request'
    """
    parts = [f"{counted.answered} of {counted.calls} answered", plural(counted.token_requests, "token request")]
    return ", ".join(parts + ([plural(counted.unauthorized, "answer") + " 401"] if counted.unauthorized else []))


def outage(counted: Counted) -> str:
    """
    >>> outage(Counted(80, 20, 1, 0))
    '20 of 80 answered, 1 token request'
    """
    return f"{counted.answered} of {counted.calls} answered, {plural(counted.token_requests, 'token request')}"


def back(counted: Counted) -> str:
    """
    >>> back(Counted(80, 20, 1, 0, 3.26)), back(Counted(80, 20, 1, 0))
    ('answers after 3.3 s', 'no answer within 60 s')
    """
    return "no answer within 60 s" if counted.recovery is None else f"answers after {counted.recovery:.1f} s"


def cookies(names: list[str]) -> str:
    """
    >>> cookies(["session_id", "user_id"]), cookies([]), cookies(sorted(COOKIES))
    ('2: session_id, user_id', 'none', 'all')
    """
    if len(names) == len(COOKIES):
        return "all"
    return f"{len(names)}: {', '.join(names)}" if names else "none"


def microseconds(value: float | None) -> str:
    """
    >>> microseconds(41.6), microseconds(None)
    ('42 µs', 'not apart from LiteLLM')
    """
    return "not apart from LiteLLM" if value is None else f"{value:.0f} µs"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
