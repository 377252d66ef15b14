"""What is done to all candidates, and what is counted meanwhile: at the authorization server, at the MCP server, and at
LiteLLM, which users call.
"""

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from authority import Authority
from calls import Callers
from candidates import LISTED, Candidate
from ground import KEY
from processes import LIMIT, Broken, Processes

# Of tokens, in seconds. LiteLLM keeps those that live less than 70 s for 10 s.
SHORT, LONG = 20, 600
# One call each half second.
PAUSE = 0.5
STEADY_SECONDS = 60
# How long calls are counted in an outage. The first one ends then, and each of the others goes on for so much longer than the one before:
# where pauses between attempts grow, it is the moment of the end that decides how soon calls are answered again.
OUTAGE_SECONDS, LONGER = 40, 10
REJECTION_SECONDS = 20
# While the processor time is measured: calls, and how many of them at a time; and before that the time without any.
CALLS, AT_A_TIME = 200, 4
IDLE_SECONDS = 20
# Of the user, with each call.
COOKIES = {"session_id": "S", "tracking": "T", "user_id": "U", "token": "of-litellms-ui"}


@dataclass
class Counted:
    """Over one phase."""

    calls: int
    answered: int
    token_requests: int
    # Requests that the MCP server answered so.
    unauthorized: int
    # From the end of a fault to the first answer, in seconds. None: there was none.
    recovery: float | None = None


@dataclass
class Effort:
    """Of the program beside LiteLLM, while calls came as fast as LiteLLM takes them."""

    # Nanoseconds of processor time, without what it takes when nobody calls.
    consumed: float
    # Those that reached the MCP server.
    requests: int
    calls: int
    failures: int


@dataclass
class Found:
    """Of one candidate."""

    # Tools that LiteLLM found when it started, before anybody called it.
    discovered: bool
    steady: Counted
    # One a round.
    outages: list[Counted]
    cookies: list[str]
    rejection: Counted | None = None
    # None: there is no program beside LiteLLM.
    effort: Effort | None = None


class Phases:
    def __init__(self, session: aiohttp.ClientSession, processes: Processes) -> None:
        self.session = session
        self.processes = processes
        self.callers = Callers(session, KEY, patience=60)
        self.callers.headers |= {"Cookie": "; ".join(f"{name}={value}" for name, value in COOKIES.items())}

    async def found(self, candidate: Candidate, rounds: int) -> Found:
        authority = Authority(self.session, candidate.servers["admin"])
        discovered = await self.discovered(candidate)
        # The first calls of a LiteLLM take longer.
        await self.callers.burst([candidate.url], 5)
        await self.until_answered(candidate)
        cookies = await self.cookies(candidate)
        await self.until_issued(candidate, authority)
        steady = await self.paced(candidate, authority, STEADY_SECONDS)
        outages = [await self.outage(candidate, authority, number * LONGER) for number in range(rounds)]
        await authority.live_for(LONG)
        await self.until_issued(candidate, authority)
        return Found(discovered, steady, outages, cookies)

    async def discovered(self, candidate: Candidate) -> bool:
        """Whether LiteLLM's own request for the tools, at its start, was answered."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            observed = await self.observed(candidate)
            if observed.get("tools/list"):
                return True
            if observed.get("status_401"):
                return False
            await asyncio.sleep(0.2)
        raise Broken(f"the LiteLLM of {candidate.name} asked the MCP server for nothing when it started")

    async def outage(self, candidate: Candidate, authority: Authority, longer: float) -> Counted:
        """The authorization server answers 503 for longer than a token lives, from the moment on at which one was issued: a
        candidate whose token happened to be older would be answered for less long."""
        await self.until_issued(candidate, authority)
        await authority.fail(status=503)
        counted = await self.paced(candidate, authority, OUTAGE_SECONDS)
        await asyncio.sleep(longer)
        await authority.heal()
        counted.recovery = await self.callers.until_answered(candidate.url)
        return counted

    async def until_issued(self, candidate: Candidate, authority: Authority) -> None:
        """Until another token was issued. Users call meanwhile, since LiteLLM requests one only when it needs it."""
        issued = (await authority.counts()).issued
        end = time.monotonic() + LIMIT
        while (await authority.counts()).issued == issued:
            if time.monotonic() > end:
                raise Broken(f"{candidate.name} got no token for {LIMIT} s, though its authorization server issues them")
            await self.callers.call(candidate.url)
            await asyncio.sleep(PAUSE / 2)

    async def until_answered(self, candidate: Candidate) -> None:
        """What never answers was not set up rightly, so that nothing may be said of it."""
        if await self.callers.until_answered(candidate.url) is None:
            raise Broken(f"{candidate.name} answers no calls, though nothing is wrong; see the logs")

    async def rejection(self, candidate: Candidate) -> Counted:
        """The MCP server refuses the token in use long before its end."""
        await self.until_answered(candidate)
        async with self.session.post(f"{base(candidate)}/reject") as answer:
            answer.raise_for_status()
        return await self.paced(candidate, Authority(self.session, candidate.servers["admin"]), REJECTION_SECONDS)

    async def cookies(self, candidate: Candidate) -> list[str]:
        """Which of the user's cookies the tool sees, by a call that is answered."""
        body = {"server_id": "tools", "name": "whoami", "arguments": {}}
        url = f"{candidate.url}/mcp-rest/tools/call"
        async with self.session.post(url, headers=self.callers.headers, json=body) as answer:
            text = await answer.text()
        try:
            return sorted(json.loads(json.loads(text)["content"][0]["text"])["cookies"])
        except (ValueError, KeyError, IndexError, TypeError):
            raise Broken(f"{candidate.name} answered no call: {text[:300]}") from None

    async def paced(self, candidate: Candidate, authority: Authority, seconds: float) -> Counted:
        """Calls that come by the clock, whether or not earlier ones were answered."""
        before, seen = await authority.counts(), await self.observed(candidate)
        calls = []
        began = time.monotonic()
        for number in range(int(seconds / PAUSE)):
            await asyncio.sleep(max(0.0, began + number * PAUSE - time.monotonic()))
            calls.append(asyncio.create_task(self.callers.call(candidate.url)))
        ends = await asyncio.gather(*calls)
        after, seen_now = await authority.counts(), await self.observed(candidate)
        answered = sum(problem is None for _, problem in ends)
        unauthorized = seen_now.get("status_401", 0) - seen.get("status_401", 0)
        return Counted(len(ends), answered, after.requests - before.requests, unauthorized)

    async def at_rest(self, candidates: list[Candidate]) -> tuple[dict[str, float], float]:
        """What each program takes when nobody calls, in nanoseconds a second, and the part of the time that the processors have
        nothing to do meanwhile: what is missing to 1 is what else runs on this machine."""
        processes = {each.name: self.processes.process(each.process).pid for each in candidates if each.process}
        before = {name: consumed(process) for name, process in processes.items()}
        idle, total = processors()
        began = time.monotonic()
        await asyncio.sleep(IDLE_SECONDS)
        idle_now, total_now = processors()
        seconds = time.monotonic() - began
        rates = {name: (consumed(process) - before[name]) / seconds for name, process in processes.items()}
        return rates, (idle_now - idle) / (total_now - total)

    async def effort(self, candidate: Candidate, at_rest: float) -> Effort:
        """Calls come as fast as LiteLLM takes them. `at_rest`: what the program takes without any, in nanoseconds a second."""
        process = self.processes.process(candidate.process).pid
        before, seen, began = consumed(process), await self.observed(candidate), time.monotonic()
        failures = 0
        for _ in range(CALLS // AT_A_TIME):
            failures += (await self.callers.burst([candidate.url], AT_A_TIME)).failures.total()
        took = consumed(process) - before - at_rest * (time.monotonic() - began)
        requests = (await self.observed(candidate))["requests"] - seen["requests"]
        return Effort(took, requests, CALLS, failures)

    async def observed(self, candidate: Candidate) -> dict[str, int]:
        async with self.session.get(f"{base(candidate)}/observed") as answer:
            return await answer.json()


def base(candidate: Candidate) -> str:
    return candidate.servers["mcp"].removesuffix("/mcp")


def consumed(process: int) -> int:
    """Nanoseconds that all threads of a process have run, those that ended too: its own clock, by the identifier that
    clock_getcpuclockid(3) makes of the process's on Linux."""
    return time.clock_gettime_ns(~process << 3 | 2)


def processors() -> tuple[int, int]:
    """How long all processors had nothing to do, and the whole time, since the machine was started."""
    times = [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return times[3] + times[4], sum(times)


def problems(found: Found) -> list[str]:
    """What of mcp-auth's contradicts what it promises. How long something took decides nothing."""
    expected = {
        "LiteLLM did not find the tools at its start": found.discovered,
        "a call was not answered while tokens were renewed": found.steady.answered == found.steady.calls,
        "the MCP server saw a token that was over": found.steady.unauthorized == 0,
        # One each two thirds of a life, and one that began before.
        "it requested more tokens than its schedule allows": found.steady.token_requests <= STEADY_SECONDS / (SHORT * 2 / 3) + 2,
        "no call was answered in an outage, though a token was just issued": all(each.answered for each in found.outages),
        "no call was answered after an outage": all(each.recovery is not None for each in found.outages),
        "a call was not answered when many came": found.effort.failures == 0,
        "a call was not answered because the MCP server rejected a token": found.rejection.answered == found.rejection.calls,
        "other cookies than the listed ones arrived": found.cookies == sorted(LISTED),
    }
    return [problem for problem, holds in expected.items() if not holds]
