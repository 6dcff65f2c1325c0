"""The orders API: `python -m shop_orders.app`."""

from fastapi import FastAPI

from shop_common.mongo import MONGO_TRANSIENT
from shop_common.service import run_api, service_app
from shop_common.settings import load_settings
from shop_orders.api import router
from shop_orders.resources import open_resources
from shop_orders.settings import Settings


def create_app(settings: Settings | None = None) -> FastAPI:
    return service_app(
        "orders", settings or load_settings(Settings), open_resources, routers=[router], transient=MONGO_TRANSIENT
    )


if __name__ == "__main__":
    run_api("shop_orders.app:create_app", load_settings(Settings))
