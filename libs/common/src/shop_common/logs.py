"""Logs: one JSON object a line on standard output, with the trace and the request they belong to."""

import logging
import sys
from datetime import UTC, datetime
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from shop_common.context import request_id
from shop_common.tracing import current_trace_id

_HANDLER = "shop"
_REPETITIVE = ("aiokafka", "pymongo")
_REPEAT_SECONDS = 10.0
_REMEMBERED = 1000


class _Correlation(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.trace_id = current_trace_id()
        record.request_id = request_id()
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
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        log_data.pop("color_message", None)  # uvicorn's, for terminals
        return {name: value for name, value in log_data.items() if value != ""}


def configure_logs(service: str, level: str) -> None:
    """Route every logger of the process, uvicorn's too, to standard output."""
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
    logging.root.setLevel(level)
    for noisy in ("aiokafka", "pymongo", "opentelemetry.sdk.trace.export", "httpx"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.root.level))
