"""What is done to both arrangements, and what is counted and timed meanwhile.

Each situation begins with a token that was just issued, and all its callers come at the same moment.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from authority import Authority
from calls import Burst, Callers
from processes import Broken
from stands import Stand

CALLERS = 50
# Both arrangements are measured at the same time, since most of it is waiting for a token's end. The second begins
# this many seconds after the first, so that the callers of the two do not meet.
APART = 4
# How often the first token is waited for; it is due when the one before has ended.
FRESH_ATTEMPTS = 300
# How often a situation is tried on a machine that is too busy for it.
ATTEMPTS = 3


@dataclass(frozen=True, eq=False)
class Situation:
    name: str
    # Life of the tokens, in seconds. LiteLLM keeps one that lives less than a minute for 10 s at most.
    lifetime: int
    # When the callers come, in seconds after the token was issued.
    calls_at: float
    replicas: int = 1
    # As the administration of the authorization server takes it, from the token's issue on.
    fault: dict[str, Any] | None = None
    # When the fault ends, in seconds after the callers came. None: after all of them were answered.
    fault_lasts: float | None = None
    # Measured in so many rounds only.
    rounds: int | None = None

    @property
    def serves(self) -> bool:
        """Whether a token is there for the callers, if only it is renewed ahead of its end."""
        return self.fault is None or self.calls_at < self.lifetime

    def is_in_time(self, slowest: float) -> bool:
        """Whether callers who come before the token's end were gone by then."""
        return self.calls_at > self.lifetime or self.calls_at + slowest < self.lifetime


SITUATIONS = [
    Situation("The token's life is over", lifetime=10, calls_at=10.2),
    Situation("The token's life is over, 4 replicas", lifetime=10, calls_at=10.2, replicas=4),
    Situation(
        "503; calls in the last seconds of the token's life",
        lifetime=24,
        calls_at=16.5,
        fault={"status": 503},
    ),
    Situation(
        "503 after 0.2 s; calls after the token's life",
        lifetime=5,
        calls_at=5.2,
        fault={"status": 503, "seconds": 0.2},
        fault_lasts=15,
    ),
    Situation(
        "`expires_in: 0`; calls after the token's life",
        lifetime=5,
        calls_at=5.2,
        fault={"expiresIn": 0},
        fault_lasts=5,
    ),
    # The last one, and once only: LiteLLM does not soon get over it.
    Situation(
        "No answer at all; calls after the token's life",
        lifetime=5,
        calls_at=5.2,
        fault={"seconds": 3600},
        fault_lasts=15,
        rounds=1,
    ),
]


@dataclass(frozen=True)
class Measured:
    burst: Burst
    # Those after the first token, until the situation was over.
    token_requests: int
    # How long that was.
    seconds: float
    # Token requests under way at one time, at most, since the arrangement was started.
    most_under_way: int
    # From the fault's end to the first answer. None: not waited for, or in vain.
    recovery: float | None


class Bench:
    def __init__(self, callers: Callers) -> None:
        self.callers = callers
        self.turn = asyncio.Lock()
        self.begun_at = 0.0

    async def warm_up(self, stand: Stand) -> None:
        """Calls that nothing is measured of: the first ones of a LiteLLM take longer."""
        for replica in stand.replicas:
            await self.callers.burst([replica], CALLERS)

    async def measure(self, situation: Situation, stand: Stand, authority: Authority) -> Measured:
        for _ in range(ATTEMPTS):
            measured = await self.measure_once(situation, stand, authority)
            if situation.is_in_time(measured.burst.slowest):
                return measured
        raise Broken(f"this machine is too busy: the callers of {stand.name} were not gone by the token's end")

    async def measure_once(self, situation: Situation, stand: Stand, authority: Authority) -> Measured:
        replicas = stand.replicas[: situation.replicas]
        async with self.turn:
            await until(self.begun_at + APART)
            await authority.live_for(situation.lifetime)
            for replica in replicas[:1] if stand.is_ours else replicas:
                await self.freshen(replica, authority)
            issued_at = self.begun_at = time.monotonic()
        before = await authority.counts()
        if situation.fault:
            await authority.fail(**situation.fault)
        await until(issued_at + situation.calls_at)
        burst = asyncio.create_task(self.callers.burst(replicas, CALLERS))
        recovery = None
        if situation.fault_lasts is not None:
            await until(issued_at + situation.calls_at + situation.fault_lasts)
            await authority.heal()
            recovery = await self.callers.until_answered(replicas[0])
        ended = await burst
        after = await authority.counts()
        await authority.heal()
        requests = after.requests - before.requests
        return Measured(ended, requests, time.monotonic() - issued_at, after.most_under_way, recovery)

    async def freshen(self, replica: str, authority: Authority) -> None:
        """Makes calls until one more token was issued."""
        issued = (await authority.counts()).issued
        for _ in range(FRESH_ATTEMPTS):
            _, problem = await self.callers.call(replica)
            if (await authority.counts()).issued > issued:
                return
            await asyncio.sleep(0.2)
        raise Broken(f"no token was issued for {replica}; its last call said: {problem or 'an answer'}")


async def until(moment: float) -> None:
    await asyncio.sleep(max(0, moment - time.monotonic()))
