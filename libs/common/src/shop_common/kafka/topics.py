"""`python -m shop_common.kafka.topics --bootstrap-servers HOST:PORT`: create every topic; safe to repeat."""

import argparse
import asyncio
import logging
import sys
from collections.abc import Mapping
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from shop_common.errors import StartupError
from shop_common.events import orders, users
from shop_common.events.contract import PARTITIONS
from shop_common.kafka.deadletter import dead_letter_topic

GROUPS: Final[Mapping[str, str]] = {
    "users-worker": orders.TOPIC,
    "users-mail": users.TOPIC,
    "orders-worker": users.TOPIC,
}
"""The consumer groups, and the topic each reads."""
_EVENT_TOPICS: Final = (users.TOPIC, orders.TOPIC)
_DEADLINE_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.2
_REQUEST_TIMEOUT_MS: Final = 10_000
_KEEP_FOR_EVER: Final = {"retention.ms": "-1"}
# A dead letter is a record of up to 1 MiB and its story.
_LARGER: Final = {"max.message.bytes": str(2 * 1024 * 1024)}


def wanted_topics() -> Mapping[str, Mapping[str, str]]:
    """Every topic and what it is set to; each has `PARTITIONS` partitions."""
    letters = {dead_letter_topic(group): _KEEP_FOR_EVER | _LARGER for group in GROUPS}
    return dict.fromkeys(_EVENT_TOPICS, _KEEP_FOR_EVER) | letters


def all_partitions(*topics: str) -> list[TopicPartition]:
    """Of topics that `create_topics` made."""
    return [TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)]


async def create_topics(bootstrap_servers: str, replication_factor: int = 1, prefix: str = "") -> list[str]:
    """Create what is missing and wait until each has its partitions; returns the names of all. Raises StartupError."""
    wanted = {prefix + topic: configs for topic, configs in wanted_topics().items()}
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, request_timeout_ms=_REQUEST_TIMEOUT_MS)
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS):
            await admin.start()
            await _create(admin, wanted, replication_factor)
            await _wait_for_partitions(admin, set(wanted))
    except (KafkaError, OSError) as error:
        raise StartupError(
            f"Kafka at {bootstrap_servers} does not answer ({type(error).__name__}); is it running there?"
        ) from error
    finally:
        await admin.close()
    return sorted(wanted)


async def find_partitions(admin: Any) -> dict[str, list[TopicPartition]]:
    """Those of every topic: asking for one topic by its name would create it where brokers do that."""
    return {
        topic["topic"]: [TopicPartition(topic["topic"], part["partition"]) for part in topic["partitions"]]
        for topic in await admin.describe_topics()
    }


async def _create(admin: Any, wanted: Mapping[str, Mapping[str, str]], replication_factor: int) -> None:
    topics = [NewTopic(name, PARTITIONS, replication_factor, topic_configs=configs) for name, configs in wanted.items()]
    response = await admin.create_topics(topics, timeout_ms=_REQUEST_TIMEOUT_MS)
    for name, code, message in response.topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:
            raise StartupError(f"topic {name} cannot be created: {message or error.__name__}")


async def _wait_for_partitions(admin: Any, names: set[str]) -> None:
    missing = set(names)
    while missing:
        for topic in await admin.describe_topics(sorted(missing)):
            name, found = topic["topic"], len(topic["partitions"])
            if topic["error_code"] or any(part["leader"] < 0 for part in topic["partitions"]):
                continue
            if found != PARTITIONS:
                raise StartupError(
                    f"topic {name} has {found} partitions, not {PARTITIONS}: the order per key would break;"
                    " delete it, or move its events to a new topic"
                )
            missing.discard(name)
        if missing:
            await asyncio.sleep(_POLL_SECONDS)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m shop_common.kafka.topics", description="Create every Kafka topic.")
    parser.add_argument("--bootstrap-servers", required=True, metavar="HOST:PORT")
    parser.add_argument("--replication-factor", type=int, default=1, metavar="N")
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what went wrong is said once, below
    try:
        names = asyncio.run(create_topics(options.bootstrap_servers, options.replication_factor))
    except StartupError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the command line's answer
        return 1
    print("\n".join(names))  # noqa: T201 - the command line's answer
    return 0


if __name__ == "__main__":
    sys.exit(main())
