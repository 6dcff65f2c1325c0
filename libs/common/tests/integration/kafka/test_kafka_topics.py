"""The command that creates the topics: complete, repeatable, and clear about what is wrong."""

import socket
import subprocess
import sys
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from shop_common.errors import StartupError
from shop_common.kafka.topics import create_topics

EXPECTED = ["orders-worker.dlq", "orders.events.v1", "users-mail.dlq", "users-worker.dlq", "users.events.v1"]


async def test_every_topic_is_there_with_its_partitions_and_again(kafka: Any) -> None:
    for _ in range(2):
        names = await create_topics(kafka.bootstrap, prefix=kafka.prefix)
        assert names == [kafka.prefix + name for name in EXPECTED]

    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        found = {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics(names)}
        configs = await admin.describe_configs(
            [
                ConfigResource(ConfigResourceType.TOPIC, name, {"max.message.bytes": "", "retention.ms": ""})
                for name in names
            ]
        )
    finally:
        await admin.close()
    assert found == dict.fromkeys(names, 12)
    described = {
        name: {config[0]: config[1] for config in entries}
        for response in configs
        for _, _, _, name, entries in response.resources
    }
    assert {values["retention.ms"] for values in described.values()} == {"-1"}
    assert described[f"{kafka.prefix}users-worker.dlq"]["max.message.bytes"] == "2097152"


async def test_another_number_of_partitions_is_an_error(kafka: Any) -> None:
    await kafka.topic(f"{kafka.prefix}users.events.v1", partitions=3)

    with pytest.raises(StartupError, match=r"users\.events\.v1 has 3 partitions, not 12"):
        await create_topics(kafka.bootstrap, prefix=kafka.prefix)


async def test_more_replicas_than_brokers_is_an_error(kafka: Any) -> None:
    with pytest.raises(StartupError, match=r"cannot be created: .*replication factor"):
        await create_topics(kafka.bootstrap, 3, prefix=kafka.prefix)


def run_command(bootstrap: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "shop_common.kafka.topics", "--bootstrap-servers", bootstrap]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 - our own program


def test_the_command_names_the_topics(kafka_bootstrap: str) -> None:
    done = run_command(kafka_bootstrap)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == EXPECTED


def test_no_broker_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run_command(address)

    assert done.returncode == 1
    assert done.stderr == f"Kafka at {address} does not answer (KafkaConnectionError); is it running there?\n"
