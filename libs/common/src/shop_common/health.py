"""`/livez` looks at nothing outside, `/readyz` at this process's own pools, `/health` tells a person about both."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

CHECK_SECONDS = 1.0
_OK, _DEGRADED = "ok", "degraded"
Check = Callable[[], Awaitable[None]]

_logger = logging.getLogger(__name__)


class Degraded(Exception):
    """Raised by a check of what the process can do without: it is told, and the process is ready all the same."""


@dataclass(slots=True)
class Health:
    """What a process checks: `checks` by backend, each returning or raising within a second."""

    service: str
    checks: Mapping[str, Check]
    started: float = field(default_factory=time.monotonic)
    stopping: bool = False
    """The process has been told to stop: it takes what comes, and wants nothing more sent to it."""

    async def results(self) -> dict[str, str]:
        """Name → `ok`, or the kind of failure; addresses and messages stay in the logs."""
        checks = dict(self.checks)
        outcomes = await asyncio.gather(*(self._outcome(name, check) for name, check in checks.items()))
        return dict(zip(checks, outcomes, strict=True))

    async def _outcome(self, name: str, check: Check) -> str:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await check()
        except Degraded:
            return _DEGRADED
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, the answer is "not ready"
            kind = type(error).__name__
            _logger.warning("check failed", extra={"check": name, "error": f"{kind}: {error}"})
            return kind
        return _OK

    async def livez(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(self, _: Request) -> Response:
        if self.stopping:
            return JSONResponse({"status": "stopping", "checks": {}}, 503)
        checks = await self.results()
        ready = all(outcome in {_OK, _DEGRADED} for outcome in checks.values())
        status = "ok" if ready else "unavailable"
        return JSONResponse({"status": status, "checks": checks}, 200 if ready else 503)

    async def health(self, _: Request) -> Response:
        """Always 200: a report for people and dashboards, not a probe."""
        checks = await self.results()
        status = _OK if all(outcome == _OK for outcome in checks.values()) else _DEGRADED
        status = "stopping" if self.stopping else status
        uptime = round(time.monotonic() - self.started, 1)
        return JSONResponse({"service": self.service, "status": status, "checks": checks, "uptime_seconds": uptime})
