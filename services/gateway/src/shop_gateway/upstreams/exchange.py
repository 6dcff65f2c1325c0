"""One request to a service over HTTP: its deadline and headers, its answer bounded and checked, failures with names."""

import time
from datetime import timedelta
from urllib.parse import urlsplit

from pyreqwest.client import Client
from pyreqwest.exceptions import (
    ConnectTimeoutError,
    NetworkError,
    PoolTimeoutError,
    RequestError,
    RequestTimeoutError,
)
from pyreqwest.response import Response

from shop_common.context import request_id
from shop_common.problems import PROBLEM_JSON
from shop_common.request import DEADLINE_HEADER, REQUEST_ID_HEADER
from shop_common.tracing import current_traceparent
from shop_gateway.errors import UpstreamBusy, UpstreamDeadline, UpstreamMalformed, UpstreamUnreachable
from shop_gateway.headers import to_client
from shop_gateway.models import Answer, Call, Owner

_JSON_TYPES = ("application/json", PROBLEM_JSON)
_TIMER_SECONDS = 0.005


class Exchange:
    """Sends one request to one service, once."""

    def __init__(self, name: Owner, url: str, pool: Client, max_answer_bytes: int) -> None:
        self._name = name
        self._url = url
        self._origin = urlsplit(url)._replace(path="").geturl()
        self._pool = pool
        self._max_bytes = max_answer_bytes

    async def send(self, call: Call, seconds: float) -> Answer:
        """Any answer that is JSON or empty, whatever its status; UpstreamError (502, 503, 504) if there is none.

        `seconds` is the time left for it, connecting included.
        """
        if seconds <= 0:
            raise UpstreamDeadline(f"No time was left to ask {self._name}")
        own = {DEADLINE_HEADER: str(max(1, int(seconds * 1000))), REQUEST_ID_HEADER: request_id()}
        if traceparent := current_traceparent():
            own["traceparent"] = traceparent
        request = self._pool.request(call.method, self._url + call.target).headers({**call.headers, **own})
        if call.body is not None:
            request = request.body_bytes(call.body)
        ends = time.perf_counter() + seconds
        try:
            async with request.timeout(timedelta(seconds=seconds)).build_streamed() as response:
                return await self._answer(response)
        except PoolTimeoutError:
            raise UpstreamBusy(f"No connection to {self._name} is free", headers={"Retry-After": "1"}) from None
        except RequestTimeoutError as error:
            # pyreqwest calls every timeout before the answer's head one of connecting: tell them apart by the clock.
            if isinstance(error, ConnectTimeoutError) and time.perf_counter() < ends - _TIMER_SECONDS:
                raise UpstreamUnreachable(f"{self._name} cannot be reached") from None
            raise UpstreamDeadline(f"{self._name} did not answer in time") from None
        except NetworkError:
            raise UpstreamUnreachable(f"{self._name} cannot be reached") from None
        except (RequestError, ValueError):  # ValueError: a header that is no text
            raise self._malformed("its answer breaks HTTP") from None

    async def _answer(self, response: Response) -> Answer:
        headers = to_client(response.get_header, self._origin)
        declared = response.get_header("content-length")
        if declared is not None and int(declared) > self._max_bytes:
            raise self._malformed("its answer is too large")
        if response.get_header("content-encoding") is not None:
            raise self._malformed("its answer has an encoding that was not asked for")
        body = (await response.bytes()).to_bytes() if declared is not None else await self._chunks(response)
        if body and headers.get("content-type", "").partition(";")[0].strip().lower() not in _JSON_TYPES:
            raise self._malformed("its answer is not JSON")
        return Answer(response.status, headers, body, _projected_offset(response))

    async def _chunks(self, response: Response) -> bytes:
        body = bytearray()
        while (chunk := await response.body_reader.read_chunk()) is not None:
            body += chunk
            if len(body) > self._max_bytes:
                raise self._malformed("its answer is too large")
        return bytes(body)

    def _malformed(self, what: str) -> UpstreamMalformed:
        return UpstreamMalformed(f"{self._name} cannot be understood: {what}")


def _projected_offset(response: Response) -> int | None:
    given = response.get_header("projected-offset")
    return int(given) if given is not None and given.isdecimal() else None
