"""Logs: one JSON object a line on standard output, with the trace and the request they belong to."""

import asyncio
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TextIO

from pydantic_core import to_json
from pythonjsonlogger.json import JsonFormatter

from shop_common.context import request_id
from shop_common.tracing import current_trace_id

_ACCESS_LOG: Final = "shop.access"
_MAX_LOGGED_PATH: Final = 256
_HANDLER = "shop"
_REPETITIVE = ("aiokafka", "pymongo")
_REPEAT_SECONDS = 10.0
_REMEMBERED = 1000


class _Correlation(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.__dict__.setdefault("trace_id", current_trace_id())
        record.__dict__.setdefault("request_id", request_id())
        return True


class _Repeated(logging.Filter):
    """Lets a line of a driver through once in ten seconds: while a server is away, every refused attempt is one."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] not in _REPETITIVE:
            return True
        line = (record.name, str(record.msg))  # without its arguments, which differ each time
        if record.created - self._told.get(line, 0.0) < _REPEAT_SECONDS:
            return False
        if len(self._told) >= _REMEMBERED:
            self._told.clear()
        self._told[line] = record.created
        return True


class _Formatter(JsonFormatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802 - logging's
        return _rfc3339(record.created)

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        log_data.pop("color_message", None)  # uvicorn's, for terminals
        return {name: value for name, value in log_data.items() if value != ""}


class Answered(NamedTuple):
    """A request that was answered."""

    method: str
    route: str
    """Its template."""
    path: str
    """What was asked for."""
    status: int
    seconds: float
    request_id: str
    trace_id: str


class _AccessLines:
    """Written without LogRecords, which take longer than many an answer, and together for each turn of the loop."""

    def __init__(self, service: str, handler: "logging.StreamHandler[TextIO]") -> None:
        self.handler = handler
        self._fixed = f'"level":"INFO","logger":"{_ACCESS_LOG}","message":"request","service":"{service}"'
        self._waiting: list[str] = []
        self._second, self._stamp = 0, ""

    def add(self, answered: Answered) -> None:
        """Only a path is a client's own text; what else there is needs no escapes."""
        trace = f'"trace_id":"{answered.trace_id}",' if answered.trace_id else ""
        self._waiting.append(
            f'{{"time":"{self._now()}",{self._fixed},{trace}"request_id":"{answered.request_id}",'
            f'"method":"{answered.method}","route":"{answered.route}","path":{_quoted(answered.path)},'
            f'"status":{answered.status},"ms":{answered.seconds * 1000:.2f}}}\n'
        )
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._write)

    def _now(self) -> str:
        """As `_rfc3339`, made anew each second."""
        now = time.time()
        if int(now) != self._second:
            self._second, self._stamp = int(now), _rfc3339(int(now))[: -len("000Z")]
        return f"{self._stamp}{int(now % 1 * 1000):03d}Z"

    def _write(self) -> None:
        lines, self._waiting = self._waiting, []
        self.handler.stream.write("".join(lines))
        self.handler.flush()


_lines: _AccessLines | None = None


def configure_logs(service: str, level: str) -> None:
    """Route every logger of the process, uvicorn's too, to standard output."""
    global _lines  # noqa: PLW0603 - logging's own configuration is the process's, too
    handler = logging.StreamHandler(sys.stdout)
    handler.set_name(_HANDLER)
    handler.addFilter(_Repeated())
    handler.addFilter(_Correlation())
    handler.setFormatter(
        _Formatter(
            "{asctime}{levelname}{name}{message}{trace_id}{request_id}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            static_fields={"service": service},
        )
    )
    ours_before = [other for other in logging.root.handlers if other.get_name() == _HANDLER]
    for other in ours_before:  # whoever else listens, such as a test, goes on listening
        logging.root.removeHandler(other)
    logging.root.addHandler(handler)
    _lines = _AccessLines(service, handler)
    logging.root.setLevel(level)
    for noisy in ("aiokafka", "pymongo", "httpx"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.root.level))


_access = logging.getLogger(_ACCESS_LOG)


def log_access(answered: Answered) -> None:
    """One line."""
    if not _access.isEnabledFor(logging.INFO):
        return
    if _lines is not None and logging.root.handlers == [_lines.handler]:
        _lines.add(answered)
        return
    fields = answered._asdict()  # somebody else listens, too
    fields |= {"path": answered.path[:_MAX_LOGGED_PATH], "ms": round(fields.pop("seconds") * 1000, 2)}
    _access.info("request", extra=fields)


def _quoted(path: str) -> str:
    return to_json(path[:_MAX_LOGGED_PATH]).decode()


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
