"""Logs are JSON, one object a line, and say which trace and request they belong to."""

import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from opentelemetry.trace import SpanKind

from shop_common import context
from shop_common.logs import configure_logs
from shop_common.tracing import entry_span

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers, logging.root.level = handlers, level


def lines(capsys: Capture) -> list[dict[str, Any]]:
    """The objects logged since the last look, one a line."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_line_has_time_level_logger_and_service(capsys: Capture) -> None:
    configure_logs("demo", "INFO")
    logging.getLogger("shop.demo").info("hello %s", "there", extra={"order": 7, "color_message": "\033[1mhello"})
    [line] = lines(capsys)
    at = line.pop("time")
    assert at.endswith("Z")
    assert datetime.fromisoformat(at).tzinfo is not None
    assert line == {"level": "INFO", "logger": "shop.demo", "message": "hello there", "service": "demo", "order": 7}


def test_a_line_of_a_request_names_it_and_its_trace(capsys: Capture) -> None:
    configure_logs("demo", "INFO")
    with context.request_scope("r1"), entry_span("in", SpanKind.SERVER, f"00-{TRACE}-00f067aa0ba902b7-00"):
        logging.warning("inside")  # noqa: LOG015 - any logger will do
    [line] = lines(capsys)
    assert (line["request_id"], line["trace_id"]) == ("r1", TRACE)


def test_an_exception_stays_on_one_line(capsys: Capture) -> None:
    configure_logs("demo", "INFO")
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logging.getLogger("shop.demo").exception("failed\r\nbadly")
    [line] = lines(capsys)
    assert line["message"] == "failed\r\nbadly"
    assert "Traceback" in line["exc_info"]
    assert line["exc_info"].endswith("ValueError: first\nsecond")


def test_what_is_not_json_is_logged_all_the_same(capsys: Capture) -> None:
    configure_logs("demo", "INFO")
    logging.getLogger("shop.demo").info("odd", extra={"value": {1, 2}, "half": "\ud800"})
    [line] = lines(capsys)
    assert line["half"] == "\ud800"


def test_the_level_applies_and_chatty_libraries_are_quieter(capsys: Capture) -> None:
    configure_logs("demo", "INFO")
    logging.getLogger("shop.demo").debug("too fine")
    logging.getLogger("aiokafka").info("chatter")
    logging.getLogger("aiokafka").warning("news")
    assert [line["message"] for line in lines(capsys)] == ["news"]


def test_configuring_twice_logs_once_and_leaves_other_listeners(
    capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    configure_logs("demo", "INFO")
    configure_logs("renamed", "INFO")
    logging.getLogger("shop.demo").info("once")
    assert [line["service"] for line in lines(capsys)] == ["renamed"]
    assert "once" in caplog.messages


def test_what_a_driver_repeats_is_told_once_in_ten_seconds_and_what_we_say_each_time(capsys: Capture) -> None:
    configure_logs("demo", "INFO")
    driver, ours = logging.getLogger("aiokafka.conn"), logging.getLogger("shop.demo")
    for attempt in range(3):
        driver.warning("cannot connect, attempt %d", attempt)
        driver.warning("something else, attempt %d", attempt)
        ours.warning("cannot connect, attempt %d", attempt)
    told = [(line["logger"], line["message"]) for line in lines(capsys)]
    assert [message for logger, message in told if logger == "aiokafka.conn"] == [
        "cannot connect, attempt 0",
        "something else, attempt 0",
    ]
    assert len([message for logger, message in told if logger == "shop.demo"]) == 3
    later = driver.makeRecord(driver.name, logging.WARNING, "", 0, "cannot connect, attempt %d", (3,), None)
    later.created += 11
    driver.handle(later)
    assert [line["message"] for line in lines(capsys)] == ["cannot connect, attempt 3"]
