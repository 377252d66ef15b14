"""From what was found to a table in Markdown: a row for each question, a column for each candidate. Below it, how it was found."""

from candidates import Candidate
from document import spread
from phases import CALLS, COOKIES, LONG, LONGER, OUTAGE_SECONDS, REJECTION_SECONDS, SHORT, STEADY_SECONDS, Counted, Effort, Found

BEGIN = "<!-- what follows is written by `make gateways` -->"
END = "<!-- what `make gateways` writes ends here -->"


def render(results: list[tuple[Candidate, Found]]) -> str:
    rows = {
        "LiteLLM finds the tools when it starts": lambda found: "yes" if found.discovered else "no",
        f"{STEADY_SECONDS} s of calls with tokens that live {SHORT} s": lambda found: steady(found.steady),
        f"{OUTAGE_SECONDS} s of calls while the authorization server answers 503": lambda found: outage(found.outages),
        "once it is back": lambda found: back(found.outages),
        f"the MCP server rejects a token that lives {LONG} s, {REJECTION_SECONDS} s of calls": lambda found: steady(found.rejection),
        f"of {len(COOKIES)} cookies arrive": lambda found: cookies(found.cookies),
        "processor time for each request": lambda found: effort(found.effort),
    }
    head = ["", *(heading(candidate) for candidate, _ in results)]
    lines = [head, ["---"] * len(head)]
    lines += [[question, *(cell(found) for _, found in results)] for question, cell in rows.items()]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{method(len(results[0][1].outages))}"


def method(rounds: int) -> str:
    """
    >>> "once, and lasted 40 s" in method(1), "3 times: median" in method(3), "for 40, 50 and 60 s" in method(3)
    (True, True, True)
    """
    lengths = [str(OUTAGE_SECONDS + number * LONGER) for number in range(rounds)]
    if rounds == 1:
        outages = f"once, and lasted {lengths[0]} s"
    else:
        outages = f"{rounds} times: median, and range in parentheses. It lasted for {', '.join(lengths[:-1])} and {lengths[-1]} s"
    return f"""How it was run:

- Users called one tool twice a second, each call with {len(COOKIES)} cookies.
- The outage began right after a token had been issued to the candidate, {outages};
  the calls and token requests of its first {OUTAGE_SECONDS} s are counted. The {STEADY_SECONDS} s without a fault began so too.
- Processor time is that of the program beside LiteLLM during {CALLS} calls, less what it takes in as long a time without calls, for each
  request that reached the MCP server. mcp-auth wrote its audit log, as it does unless it is told not to; the others wrote no line for a
  call that is answered."""


def missing_columns(document: str, results: list[tuple[Candidate, Found]]) -> list[str]:
    """Which candidates the table in the document has, and this run has not. Versions may differ.

    >>> missing_columns("text\\n\\n|  | LiteLLM's own 1.0 | Envoy 1.2 |\\n| --- | --- | --- |", [])
    ["LiteLLM's own", 'Envoy']
    """
    head = next((line for line in document.splitlines() if line.startswith("|")), "")
    columns = [cell.strip().rpartition(" ")[0] for cell in head.strip("|").split("|")]
    measured = [candidate.name for candidate, _ in results]
    return [name for name in columns if name and name not in measured]


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


def outage(rounds: list[Counted]) -> str:
    """
    >>> outage([Counted(80, 20, 1, 0)]), outage([Counted(80, 20, 4, 0), Counted(80, 24, 4, 0), Counted(80, 25, 6, 0)])
    ('20 of 80 answered, 1 token request', '24 (20 to 25) of 80 answered, 4 (4 to 6) token requests')
    """
    answered = spread([counted.answered for counted in rounds], "{:g}".format)
    requests = spread([counted.token_requests for counted in rounds], "{:g}".format)
    return f"{answered} of {rounds[0].calls} answered, {requests} token request{'' if requests == '1' else 's'}"


def back(rounds: list[Counted]) -> str:
    """
    >>> back([Counted(80, 20, 1, 0, 3.26)]), back([Counted(80, 20, 1, 0)])
    ('answers after 3.3 s', 'answers after more than 60 s')
    >>> back([Counted(80, 20, 1, 0, 3.26), Counted(80, 20, 1, 0, 4.0), Counted(80, 20, 1, 0)])
    'answers after 4.0 s (3.3 s to more than 60 s)'
    """

    def seconds(value: float) -> str:
        return "more than 60 s" if value == float("inf") else f"{value:.1f} s"

    return f"answers after {spread([float('inf') if each.recovery is None else each.recovery for each in rounds], seconds)}"


def cookies(names: list[str]) -> str:
    """
    >>> cookies(["session_id", "user_id"]), cookies([]), cookies(sorted(COOKIES))
    ('2: session_id, user_id', 'none', 'all')
    """
    if len(names) == len(COOKIES):
        return "all"
    return f"{len(names)}: {', '.join(names)}" if names else "none"


def effort(of: Effort | None) -> str:
    """
    >>> effort(Effort(50_000_000, 1200, 200, 0)), effort(None)
    ('42 µs, 6.0 requests for each call', 'not apart from LiteLLM')
    >>> effort(Effort(50_000_000, 1200, 200, 3)), effort(Effort(1, 0, 200, 200))
    ('not measured: 3 of 200 calls failed', 'not measured: 200 of 200 calls failed')
    """
    if of is None:
        return "not apart from LiteLLM"
    if of.failures:
        return f"not measured: {of.failures} of {of.calls} calls failed"
    return f"{of.consumed / of.requests / 1000:.0f} µs, {of.requests / of.calls:.1f} requests for each call"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
