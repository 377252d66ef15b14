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

# Of tokens, in seconds. LiteLLM keeps those that live less than a minute for 10 s.
SHORT, LONG = 20, 600
# One call each half second.
PAUSE = 0.5
STEADY_SECONDS = 60
OUTAGE_SECONDS = 40
REJECTION_SECONDS = 20
# While the processor time is measured: calls, and how many of them at a time.
CALLS, AT_A_TIME = 300, 4
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
class Found:
    """Of one candidate."""

    # Tools that LiteLLM found when it started, before anybody called it.
    discovered: bool
    steady: Counted
    outage: Counted
    cookies: list[str]
    rejection: Counted | None = None
    # Of the program beside LiteLLM, in microseconds for each request that reached the MCP server.
    processor_time: float | None = None


class Phases:
    def __init__(self, session: aiohttp.ClientSession, processes: Processes) -> None:
        self.session = session
        self.processes = processes
        self.callers = Callers(session, KEY, patience=60)

    async def found(self, candidate: Candidate) -> Found:
        authority = Authority(self.session, candidate.servers["admin"])
        discovered = await self.discovered(candidate)
        # The first calls of a LiteLLM take longer.
        await self.callers.burst([candidate.url], 5)
        steady = await self.paced(candidate, authority, STEADY_SECONDS)
        outage = await self.outage(candidate, authority)
        await self.long_token(candidate, authority)
        return Found(discovered, steady, outage, await self.cookies(candidate))

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

    async def outage(self, candidate: Candidate, authority: Authority) -> Counted:
        """The authorization server answers 503 for longer than a token lives."""
        await authority.fail(status=503)
        counted = await self.paced(candidate, authority, OUTAGE_SECONDS)
        await authority.heal()
        counted.recovery = await self.callers.until_answered(candidate.url)
        return counted

    async def long_token(self, candidate: Candidate, authority: Authority) -> None:
        """Until the token in use is one that lives for long."""
        await authority.live_for(LONG)
        issued = (await authority.counts()).issued
        end = time.monotonic() + LIMIT
        while (await authority.counts()).issued == issued and time.monotonic() < end:
            await self.callers.call(candidate.url)
            await asyncio.sleep(PAUSE)

    async def rejection(self, candidate: Candidate) -> Counted:
        """The MCP server refuses the token in use long before its end."""
        _, problem = await self.callers.call(candidate.url)
        if problem:
            raise Broken(f"{candidate.name} answers no calls with a token just issued: {problem}")
        async with self.session.post(f"{base(candidate)}/reject") as answer:
            answer.raise_for_status()
        return await self.paced(candidate, Authority(self.session, candidate.servers["admin"]), REJECTION_SECONDS)

    async def cookies(self, candidate: Candidate) -> list[str]:
        """Which of the user's cookies the tool sees, by a call that is answered."""
        headers = self.callers.headers | {"Cookie": "; ".join(f"{name}={value}" for name, value in COOKIES.items())}
        body = {"server_id": "tools", "name": "whoami", "arguments": {}}
        async with self.session.post(f"{candidate.url}/mcp-rest/tools/call", headers=headers, json=body) as answer:
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

    async def processor_time(self, candidate: Candidate) -> float | None:
        """Its share of a request, while calls come as fast as LiteLLM takes them."""
        if candidate.process is None:
            return None
        process = self.processes.process(candidate.process).pid
        before, seen = consumed(process), await self.observed(candidate)
        for _ in range(CALLS // AT_A_TIME):
            burst = await self.callers.burst([candidate.url], AT_A_TIME)
            if burst.failures and candidate.is_ours:
                raise Broken(f"{candidate.name} answered not all calls: {burst.failures}")
        requests = (await self.observed(candidate))["requests"] - seen["requests"]
        return (consumed(process) - before) / requests / 1000

    async def observed(self, candidate: Candidate) -> dict[str, int]:
        async with self.session.get(f"{base(candidate)}/observed") as answer:
            return await answer.json()


def base(candidate: Candidate) -> str:
    return candidate.servers["mcp"].removesuffix("/mcp")


def consumed(process: int) -> int:
    """Nanoseconds that all threads of a process have run."""
    threads = Path(f"/proc/{process}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)


def problems(found: Found) -> list[str]:
    """What of mcp-auth's contradicts what it promises. How long something took decides nothing."""
    expected = {
        "LiteLLM did not find the tools at its start": found.discovered,
        "a call was not answered while tokens were renewed": found.steady.answered == found.steady.calls,
        "the MCP server saw a token that was over": found.steady.unauthorized == 0,
        # One each two thirds of a life, and one that began before.
        "it requested more tokens than its schedule allows": found.steady.token_requests <= STEADY_SECONDS / (SHORT * 2 / 3) + 2,
        "no call was answered after the outage": found.outage.recovery is not None,
        "a call was not answered because the MCP server rejected a token": found.rejection.answered == found.rejection.calls,
        "other cookies than the listed ones arrived": found.cookies == sorted(LISTED),
    }
    return [problem for problem, holds in expected.items() if not holds]
