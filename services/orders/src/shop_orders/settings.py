"""The settings of the orders processes, from `ORDERS_*`."""

from shop_common.kafka.settings import KafkaSettings
from shop_common.settings import (
    HttpServerSettings,
    MongoSettings,
    Port,
    ServiceSettings,
    SigningKey,
    VerifierSettings,
    settings_config,
)


class OrdersHttpSettings(HttpServerSettings):
    port: Port = 8002


class IndexSettings(ServiceSettings):
    """All that creating the indexes takes."""

    model_config = settings_config("ORDERS_")

    mongo: MongoSettings


class RestoreSettings(IndexSettings):
    """All that restoring takes."""

    kafka: KafkaSettings


class Settings(RestoreSettings):
    """Of the API and of the worker."""

    http: OrdersHttpSettings = OrdersHttpSettings()
    tokens: VerifierSettings
    cursor_key: SigningKey
    """Signs the cursors of lists; the same in all replicas."""
