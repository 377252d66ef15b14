"""What mcp-auth must not do in any situation. Counts only: how fast this machine is decides nothing.

>>> from calls import Burst
>>> from situations import SITUATIONS, Measured
>>> over, _, brief, down, *_ = SITUATIONS
>>> all_of_them, none = Burst(50, 50, 1.0), Burst(50, 0, 1.0)
>>> broken(over, Measured(all_of_them, 1, 11.5, 1, None))
[]
>>> broken(over, Measured(none, 3, 11.5, 2, None))  # doctest: +NORMALIZE_WHITESPACE
['2 token requests were under way at one time, and one client has one',
 '3 token requests in 11.5 s, and the schedule allows 1',
 '0 of 50 calls were answered, and the token in use had not ended']
>>> broken(brief, Measured(none, 3, 18.0, 1, None))
['0 of 50 calls were answered, and the token in use had not ended']
>>> broken(down, Measured(none, 18, 21.0, 1, 0.5))
[]
>>> broken(down, Measured(none, 50, 21.0, 1, None))  # doctest: +NORMALIZE_WHITESPACE
['50 token requests in 21.0 s, and the schedule allows 19',
 'no call was answered again after the fault']
"""

from situations import Measured, Situation

# A token is renewed no earlier than this share of its life: a third ahead of its end, less the jitter.
EARLIEST_RENEWAL = 0.6
# In seconds; after a failure the next request waits longer than that, and callers do not change it.
SHORTEST_BACKOFF = 1


def allowed_requests(situation: Situation, seconds: float) -> int:
    renewal = situation.lifetime * EARLIEST_RENEWAL
    if situation.fault is None:
        return int(seconds / renewal)
    # The renewal that fails first, and then one in each second of the rest.
    return max(0, 1 + int((seconds - renewal) / SHORTEST_BACKOFF))


def broken(situation: Situation, measured: Measured) -> list[str]:
    """What was wrong, in words; empty if all was well."""
    problems = []
    if measured.most_under_way > 1:
        problems.append(f"{measured.most_under_way} token requests were under way at one time, and one client has one")
    allowed = allowed_requests(situation, measured.seconds)
    if measured.token_requests > allowed:
        spent = f"{measured.token_requests} token requests in {measured.seconds:.1f} s"
        problems.append(f"{spent}, and the schedule allows {allowed}")
    burst = measured.burst
    if situation.serves and burst.answered < burst.calls:
        problems.append(f"{burst.answered} of {burst.calls} calls were answered, and the token in use had not ended")
    if situation.fault_lasts is not None and measured.recovery is None:
        problems.append("no call was answered again after the fault")
    return problems
