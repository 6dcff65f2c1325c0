"""One request to a service over HTTP: its deadline and headers, its answer checked, failures with names."""

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from shop_common.connections import HttpPool
from shop_common.context import request_id
from shop_common.http1 import BadResponse, CallFailed, CallLate, HttpCall, PoolBusy, Response
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
        milliseconds = int(seconds * 1000)
        headers = {
            **call.headers,
            DEADLINE_HEADER: str(milliseconds if milliseconds > 0 else 1),
            REQUEST_ID_HEADER: request_id(),
        }
        if traceparent is not None:
            headers["traceparent"] = traceparent

        def on_result(result: Response | CallFailed) -> None:
            done(self._answer(result) if isinstance(result, Response) else self._failure(result))

        return self._pool.send(call.method, call.target, headers, call.body, seconds=seconds, done=on_result)

    def _failure(self, result: CallFailed) -> UpstreamError:
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
        if response.body and not _is_json(headers.get("content-type", "")):
            return self._malformed("its answer is not JSON")
        offset = response.headers.get(b"projected-offset")
        return Answer(response.status, headers, response.body, None if offset is None else _whole_number(offset))

    def _malformed(self, what: str) -> UpstreamMalformed:
        return UpstreamMalformed(f"{self._name} cannot be understood: {what}")


@lru_cache(maxsize=64)
def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() in _JSON_TYPES


def _whole_number(text: bytes) -> int | None:
    return int(text) if text.isdigit() and len(text) <= _OFFSET_DIGITS else None
