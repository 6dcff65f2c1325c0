"""How a process talks to Kafka."""

from pydantic import Field

from shop_common.settings import Block, Seconds


class KafkaSettings(Block):
    bootstrap_servers: str = Field(pattern=r"^[^\s,:]+:[0-9]{1,5}(,[^\s,:]+:[0-9]{1,5})*$")
    """`host:port`, or several with commas between."""
    client_id: str = Field(default="shop", min_length=1, max_length=100)
    """What the brokers' logs and quotas call this process."""
    request_timeout_ms: int = Field(default=10_000, ge=1000, le=60_000)
    """Of one request to a broker; the group's own requests are longer, since a rebalance is."""
    send_timeout_seconds: Seconds = 10
    """From handing over an event to its ack; after that its fate is unknown and the producer is rebuilt."""
    session_timeout_ms: int = Field(default=10_000, ge=6000, le=300_000)
    """After which a member that is not heard of loses its partitions."""
    handlers_at_once: int = Field(default=64, ge=1, le=1000)
    """Users whose events a consumer handles at once."""
    handler_timeout_seconds: Seconds = 30
    """Of one call of a handler; its expiry counts as trouble with the infrastructure."""
    drain_seconds: float = Field(default=10, gt=0, le=15)
    """How long handlers under way may take to end at a stop or a rebalance; the group waits 30 s for both."""
    stuck_seconds: float = Field(default=60, gt=0, le=600)
    """Lag without progress for this long: the consumer is rebuilt; the second time in a row the process ends."""
