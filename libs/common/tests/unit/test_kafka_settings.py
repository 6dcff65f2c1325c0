"""How to talk to Kafka: what is refused at start."""

from typing import Any

import pytest
from pydantic import ValidationError

from shop_common.kafka.settings import KafkaSettings


@pytest.mark.parametrize("servers", ["127.0.0.1:19092", "kafka:9092,kafka2:9092"])
def test_bootstrap_servers_are_hosts_and_ports(servers: str) -> None:
    assert KafkaSettings(bootstrap_servers=servers).bootstrap_servers == servers


@pytest.mark.parametrize(
    "change",
    [
        {"bootstrap_servers": ""},
        {"bootstrap_servers": "kafka"},
        {"bootstrap_servers": "kafka:9092, other:9092"},
        {"request_timeout_ms": 0},
        {"send_timeout_seconds": 0},
        {"session_timeout_ms": 10},
        {"handlers_at_once": 0},
        {"drain_seconds": 25},
        {"unheard_of": 1},
    ],
)
def test_settings_out_of_bounds_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        KafkaSettings.model_validate({"bootstrap_servers": "kafka:9092"} | change)
