"""The authorization server of one arrangement, as its administration shows it: what it counted, and its faults."""

from dataclasses import dataclass

import aiohttp


@dataclass(frozen=True)
class Counts:
    """Totals of the token requests."""

    requests: int
    issued: int
    under_way: int
    most_under_way: int


class Authority:
    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def counts(self) -> Counts:
        async with self.session.get(f"{self.url}/state") as answer:
            state = await answer.json()
        return Counts(state["requests"], state["issued"], state["underWay"], state["mostUnderWay"])

    async def live_for(self, seconds: float) -> None:
        await self.post("/lifetime", {"seconds": seconds})

    async def fail(self, **how) -> None:
        await self.post("/fault", how)

    async def heal(self) -> None:
        await self.post("/fault", {})

    async def post(self, path: str, body: dict) -> None:
        async with self.session.post(f"{self.url}{path}", json=body) as answer:
            answer.raise_for_status()
