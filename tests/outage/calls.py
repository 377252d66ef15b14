"""Users' tool calls at LiteLLM: one, many at the same time, or one after another until they are answered again."""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field

import aiohttp

PAUSE_BETWEEN_PROBES = 0.25
GAVE_UP = "no answer"


@dataclass
class Burst:
    """How calls made at the same time ended."""

    calls: int
    answered: int
    slowest: float
    # What was said instead of an answer, and how often.
    failures: Counter = field(default_factory=Counter)


class Callers:
    def __init__(self, session: aiohttp.ClientSession, key: str, patience: float) -> None:
        self.session = session
        # In seconds: how long a caller waits for an answer, and how long one is waited for after a fault.
        self.patience = patience
        self.headers = {"Authorization": f"Bearer {key}"}

    async def burst(self, replicas: list[str], calls: int) -> Burst:
        """All at once, spread evenly over the replicas."""
        ends = await asyncio.gather(*(self.call(replicas[number % len(replicas)]) for number in range(calls)))
        failures = Counter(problem for _, problem in ends if problem)
        return Burst(calls, calls - failures.total(), max(seconds for seconds, _ in ends), failures)

    async def until_answered(self, replica: str) -> float | None:
        """Seconds until the first of the calls that begin from now on, four a second, is answered; none if that
        takes too long. No call waits for an earlier one, so that one that hangs hides nothing."""
        began = time.monotonic()
        answered = asyncio.Event()

        async def probe() -> None:
            _, problem = await self.call(replica)
            if problem is None:
                answered.set()

        probes = []
        try:
            while time.monotonic() - began < self.patience:
                probes.append(asyncio.create_task(probe()))
                try:
                    await asyncio.wait_for(answered.wait(), PAUSE_BETWEEN_PROBES)
                    return time.monotonic() - began
                except asyncio.TimeoutError:
                    pass
            return None
        finally:
            for task in probes:
                task.cancel()
            await asyncio.gather(*probes, return_exceptions=True)

    async def call(self, replica: str, server: str = "tools") -> tuple[float, str | None]:
        """How long a call of this server's tool took, and what was said if it was no answer of the tool."""
        began = time.monotonic()
        limit = aiohttp.ClientTimeout(total=self.patience)
        url = f"{replica}/mcp-rest/tools/call"
        body = {"server_id": server, "name": "whoami", "arguments": {}}
        try:
            async with self.session.post(url, headers=self.headers, json=body, timeout=limit) as answer:
                problem = problem_of(answer.status, await answer.text())
        except asyncio.TimeoutError:
            problem = GAVE_UP
        except aiohttp.ClientError as error:
            problem = type(error).__name__
        return time.monotonic() - began, problem


def problem_of(status: int, text: str) -> str | None:
    """None, if this is what the tool answers to whom the authorization server knows."""
    try:
        result = json.loads(text)
        if status == 200 and not result["isError"]:
            return None if json.loads(result["content"][0]["text"])["service"] == "litellm" else "another service"
    except (ValueError, KeyError, IndexError, TypeError):
        pass
    return f"{status}: {text[:300]}"


def browser() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
