"""One request to a service over HTTP: its deadline and headers, its answer checked, failures with names."""

from collections.abc import Callable
from typing import Final

from shop_common.connections import (
    BadResponse,
    CallFailed,
    CallLate,
    HttpCall,
    HttpPool,
    PoolBusy,
    Response,
)
from shop_common.context import request_id
from shop_common.problems import PROBLEM_JSON
from shop_common.request import DEADLINE_HEADER, REQUEST_ID_HEADER
from shop_gateway.errors import UpstreamBusy, UpstreamDeadline, UpstreamError, UpstreamMalformed, UpstreamUnreachable
from shop_gateway.headers import to_client
from shop_gateway.models import Answer, Call, Owner

_JSON_TYPES: Final = ("application/json", PROBLEM_JSON)
_OFFSET_DIGITS: Final = 19
Done = Callable[[Answer | UpstreamError], None]


class Exchange:
    """Sends one request to one service, once."""

    def __init__(self, name: Owner, pool: HttpPool) -> None:
        self._name = name
        self._pool = pool

    def begin(self, call: Call, seconds: float, traceparent: str | None, done: Done) -> HttpCall:
        """`done` is given any answer that is JSON or empty, whatever its status; else what became of it.

        `seconds` is the time left for it, connecting included.
        """
        headers = {
            **call.headers,
            DEADLINE_HEADER: str(max(1, int(seconds * 1000))),
            REQUEST_ID_HEADER: request_id(),
        }
        if traceparent is not None:
            headers["traceparent"] = traceparent
        return self._pool.send(
            call.method,
            call.target,
            headers,
            call.body,
            seconds=max(seconds, 0.0),
            done=lambda result: done(self._checked(result)),
        )

    def _checked(self, result: Response | CallFailed) -> Answer | UpstreamError:
        if isinstance(result, Response):
            return self._answer(result)
        if isinstance(result, BadResponse):
            return self._malformed(str(result))
        if isinstance(result, CallLate):
            return UpstreamDeadline(f"{self._name} did not answer in time")
        if isinstance(result, PoolBusy):
            return UpstreamBusy(f"No connection to {self._name} is free", headers={"Retry-After": "1"})
        return UpstreamUnreachable(f"{self._name} cannot be reached")

    def _answer(self, response: Response) -> Answer | UpstreamMalformed:
        if b"content-encoding" in response.headers:
            return self._malformed("its answer has an encoding that was not asked for")
        try:
            headers = to_client(response.headers, self._pool.origin)
        except UnicodeDecodeError:
            return self._malformed("its answer breaks HTTP")
        if response.body and headers.get("content-type", "").partition(";")[0].strip().lower() not in _JSON_TYPES:
            return self._malformed("its answer is not JSON")
        return Answer(response.status, headers, response.body, _projected_offset(response))

    def _malformed(self, what: str) -> UpstreamMalformed:
        return UpstreamMalformed(f"{self._name} cannot be understood: {what}")


def _projected_offset(response: Response) -> int | None:
    given = response.headers.get(b"projected-offset", b"")
    return int(given) if given.isdigit() and len(given) <= _OFFSET_DIGITS else None
