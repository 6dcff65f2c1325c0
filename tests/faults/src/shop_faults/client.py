"""How customers ask a gateway: every answer, and every lack of one, is a sample."""

import time
from dataclasses import dataclass
from typing import Any, Final

import httpx

_IDLE_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer, or none: `at` is when it was asked for, on the monotonic clock."""

    at: float
    kind: str
    milliseconds: float
    status: str


class Client:
    """Asks one gateway; every answer becomes a sample."""

    def __init__(self, url: str, samples: list[Sample]) -> None:
        # As balancers must: who lets a connection idle for longer than a server drains is not told that it closes.
        limits = httpx.Limits(keepalive_expiry=_IDLE_SECONDS)
        self._http = httpx.AsyncClient(base_url=url, timeout=8, limits=limits, trust_env=False)
        self._samples = samples
        self.url = url

    async def ask(self, kind: str, method: str, path: str, **options: Any) -> httpx.Response | None:
        """None, and a sample that says why, where there was no answer."""
        started = time.monotonic()
        try:
            response = await self._http.request(method, path, **options)
            status = str(response.status_code)
        except httpx.HTTPError as error:
            response, status = None, type(error).__name__
        self._samples.append(Sample(started, kind, (time.monotonic() - started) * 1000, status))
        return response

    async def close(self) -> None:
        await self._http.aclose()
