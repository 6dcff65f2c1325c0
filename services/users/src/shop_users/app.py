"""The users API; `python -m shop_users.app` serves it."""

from fastapi import FastAPI

from shop_common.postgres import POSTGRES_TRANSIENT
from shop_common.service import run_api, service_app
from shop_common.settings import load_settings
from shop_users.api import auth, users
from shop_users.resources import open_resources
from shop_users.settings import Settings


def create_app(settings: Settings | None = None) -> FastAPI:
    return service_app(
        "users",
        settings or load_settings(Settings),
        open_resources,
        routers=(users.router, auth.router),
        transient=POSTGRES_TRANSIENT,
    )


if __name__ == "__main__":
    run_api("shop_users.app:create_app", load_settings(Settings))
