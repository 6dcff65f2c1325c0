"""Rate limits over real Redis: exact for all gateways together, per user or address, and never an error."""

import asyncio
import uuid
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from shop_common.redis import open_redis
from shop_common.settings import RedisSettings
from shop_common.testing import TokenIssuer
from shop_gateway.rate_limit.limiter import RateLimiter
from shop_gateway.rate_limit.shared import SCRIPT
from shop_gateway.settings import RateLimitSettings

USER_ID = "0d4c9b3e-6f5a-4b7e-9a51-2f1f7e1f0001"
OTHER_ID = "0d4c9b3e-6f5a-4b7e-9a51-2f1f7e1f0002"


def _quota(requests: int) -> dict[str, Any]:
    """One that does not come back while a test runs, counted in Redis however busy the machine is."""
    quota = {"requests": requests, "window_seconds": 86_400}
    return quota | {"login": quota, "registration": quota, "key_prefix": f"{uuid.uuid4()}:", "redis_seconds": 60}


def _patient(redis_url: str) -> RedisSettings:
    return RedisSettings(url=SecretStr(redis_url), acquire_seconds=60, command_seconds=60)


async def test_of_many_at_once_over_several_gateways_exactly_the_quota_passes(redis_url: str) -> None:
    limits = RateLimitSettings(**_quota(37))
    async with AsyncExitStack() as stack:
        limiters = []
        for _ in range(4):
            redis = await stack.enter_async_context(open_redis(_patient(redis_url)))
            limiters.append(RateLimiter(limits, redis.register_script(SCRIPT)))
        verdicts = await asyncio.gather(*(limiter.take("user:a") for _ in range(400) for limiter in limiters))
        assert sum(verdict.allowed for verdict in verdicts) == 37
        assert sorted(verdict.remaining for verdict in verdicts if verdict.allowed) == list(range(37))
        assert (await limiters[0].take("user:b")).remaining == 36
        assert {verdict.source for verdict in verdicts} <= {"redis", "leased"}


async def test_what_is_given_back_can_be_taken_again_and_nothing_more(redis_url: str) -> None:
    async with open_redis(_patient(redis_url)) as redis:
        limiter = RateLimiter(RateLimitSettings(**_quota(2)), redis.register_script(SCRIPT))
        for _ in range(5):
            verdict = await limiter.take("a")
            assert (verdict.remaining, limiter.give_back(verdict).remaining) == (1, 2)
        assert [(await limiter.take("a")).allowed for _ in range(3)] == [True, True, False]
        await limiter.close()
        strict = [await limiter.take("a", "login") for _ in range(3)]
        limiter.give_back(strict[0])
        limiter.give_back(strict[0])
        limiter.give_back(strict[0])
        assert [(await limiter.take("a", "login")).remaining for _ in range(2)] == [1, 0]


async def test_what_redis_keeps_goes_away_with_the_window(redis_url: str) -> None:
    limits = RateLimitSettings(**_quota(10) | {"window_seconds": 1000})
    async with open_redis(_patient(redis_url)) as redis:
        limiter = RateLimiter(limits, redis.register_script(SCRIPT))
        assert (await limiter.take("a")).wait_seconds == 100
        assert 0 < await redis.ttl(f"{limits.key_prefix}a") <= 100, "one request of ten comes back in 100 s"
        for _ in range(9):
            await limiter.take("a")
        assert 900 < await redis.ttl(f"{limits.key_prefix}a") <= 1000


async def test_the_fields_count_down_and_the_next_is_429(open_gateway: Any, bearer: dict[str, str]) -> None:
    gateway: httpx.AsyncClient = await open_gateway(rate_limit=_quota(3))
    for left in (2, 1, 0):
        response = await gateway.get("/v1/orders", headers=bearer)
        assert response.status_code == 200
        assert response.headers["ratelimit-policy"] == '"default";q=3;w=86400'
        name, remaining, wait = response.headers["ratelimit"].split(";")
        assert (name, remaining) == ('"default"', f"r={left}")
        assert 0 < int(wait.removeprefix("t=")) <= 28_800
    refused = await gateway.get("/v1/orders", headers=bearer)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["ratelimit"] == f'"default";r=0;t={refused.headers["retry-after"]}'
    assert 28_000 < int(refused.headers["retry-after"]) <= 28_800


async def test_users_are_counted_apart_and_strangers_by_address(
    open_gateway: Any, issuer: TokenIssuer, users: Any, act: Any
) -> None:
    users.on("POST /v1/auth/token", act.answer({}))
    gateway = await open_gateway(rate_limit=_quota(1))
    assert (await gateway.get("/v1/orders", headers=issuer.bearer(USER_ID))).status_code == 200
    assert (await gateway.get("/v1/orders", headers=issuer.bearer(USER_ID))).status_code == 429
    assert (await gateway.get("/v1/orders", headers=issuer.bearer(OTHER_ID))).status_code == 200
    assert (await gateway.post("/v1/auth/token")).status_code == 200
    assert (await gateway.post("/v1/auth/token")).status_code == 429
    guess = {"Authorization": f"Bearer {TokenIssuer().token(USER_ID)}"}
    assert (await gateway.get("/v1/orders", headers=guess)).status_code == 429, "a bad token is the address's"


async def test_an_address_is_believed_of_trusted_proxies_only(open_gateway: Any) -> None:
    def via(client: str) -> dict[str, str]:
        return {"X-Forwarded-For": client}

    believing = await open_gateway(rate_limit=_quota(1), trusted_proxies=["127.0.0.0/8"])
    statuses = [(await believing.get("/docs", headers=via(client))).status_code for client in ("1.1.1.1", "2.2.2.2")]
    assert statuses == [200, 200]
    doubting = await open_gateway(rate_limit=_quota(1))
    statuses = [(await doubting.get("/docs", headers=via(client))).status_code for client in ("1.1.1.1", "2.2.2.2")]
    assert statuses == [200, 429]


@pytest.mark.parametrize(("method", "path"), [("GET", "/nowhere"), ("PUT", "/v1/users"), ("GET", "/v1/me")])
async def test_refusals_are_counted_too(method: str, path: str, open_gateway: Any) -> None:
    gateway = await open_gateway(rate_limit=_quota(1))
    first = await gateway.request(method, path)
    assert first.status_code in {401, 404, 405}
    assert first.headers["ratelimit"].startswith('"default";r=0;')
    assert (await gateway.request(method, path)).status_code == 429


async def test_probes_are_never_counted(open_gateway: Any) -> None:
    gateway = await open_gateway(rate_limit=_quota(1))
    for path in ("/livez", "/readyz", "/health") * 2:
        response = await gateway.get(path)
        assert response.status_code == 200
        assert "ratelimit" not in response.headers


async def test_without_redis_the_process_counts_and_nobody_gets_an_error(
    open_gateway: Any, bearer: dict[str, str], restartable: Any, caplog: pytest.LogCaptureFixture
) -> None:
    nothing_there = restartable.url.replace("http", "redis")
    gateway = await open_gateway(redis={"url": nothing_there}, rate_limit=_quota(5))
    assert (await gateway.get("/readyz")).status_code == 200
    responses = await asyncio.gather(*(gateway.get("/v1/orders", headers=bearer) for _ in range(20)))
    assert sorted(response.status_code for response in responses) == [200] * 5 + [429] * 15
    lines = [record for record in caplog.records if record.name.startswith("shop_gateway.rate_limit")]
    assert [record.getMessage() for record in lines] == ["rate limits are counted per process: no Redis"]


async def test_a_redis_that_does_not_answer_costs_one_wait(
    open_gateway: Any, bearer: dict[str, str], mute_redis: str
) -> None:
    gateway = await open_gateway(redis={"url": mute_redis}, rate_limit=_quota(5) | {"redis_seconds": 0.2})
    for _ in range(3):
        async with asyncio.timeout(10):
            assert (await gateway.get("/v1/orders", headers=bearer)).status_code == 200


async def test_a_script_redis_has_forgotten_is_sent_again(redis_url: str) -> None:
    async with open_redis(_patient(redis_url)) as redis:
        limiter = RateLimiter(RateLimitSettings(**_quota(5)), redis.register_script(SCRIPT))
        await limiter.take("a")
        await _forget_scripts(redis)
        verdict = await limiter.take("a")
        assert (verdict.remaining, verdict.source) == (3, "redis")


async def _forget_scripts(redis: Redis) -> None:
    await redis.script_flush()


async def test_logins_and_registrations_have_stricter_quotas_beside_the_usual_one(
    open_gateway: Any, users: Any, act: Any
) -> None:
    for route in ("POST /v1/auth/token", "POST /v1/auth/refresh", "POST /v1/users", "POST /v1/auth/logout"):
        users.on(route, act.answer({}))
    strict = {
        name: {"requests": requests, "window_seconds": 86_400} for name, requests in (("login", 1), ("registration", 1))
    }
    gateway = await open_gateway(rate_limit=_quota(6) | strict)
    granted = await gateway.post("/v1/auth/token")
    assert granted.headers["ratelimit-policy"] == '"default";q=6;w=86400, "login";q=1;w=86400'
    assert [item.split(";")[:2] for item in granted.headers["ratelimit"].split(", ")] == [
        ['"default"', "r=5"],
        ['"login"', "r=0"],
    ]
    assert (await gateway.post("/v1/auth/refresh")).status_code == 200
    assert (await gateway.post("/v1/auth/token%0A")).status_code == 404, "it is no other name for a login"
    refused = await gateway.post("/v1/auth/token")
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert refused.json()["detail"].startswith("Quota spent: login; ")
    usual, login = refused.headers["ratelimit"].split(", ")
    assert usual.startswith('"default";r=3;'), "what only the other refuses is not counted"
    assert login == f'"login";r=0;t={refused.headers["retry-after"]}'
    assert 86_000 < int(refused.headers["retry-after"]) <= 86_400

    assert (await gateway.post("/v1/users")).status_code == 200
    assert (await gateway.post("/v1/users")).json()["detail"].startswith("Quota spent: registration; ")
    assert [(await gateway.post("/v1/auth/logout")).status_code for _ in range(3)] == [200, 200, 429]
    both = await gateway.post("/v1/auth/token")
    assert both.json()["detail"].startswith("Quota spent: default, login; ")
    assert both.headers["retry-after"] == "86400"


async def test_what_the_usual_quota_refuses_is_not_counted_as_a_login(open_gateway: Any, users: Any, act: Any) -> None:
    users.on("POST /v1/auth/token", act.answer({}))
    quota = _quota(1) | {"login": {"requests": 5, "window_seconds": 86_400}}
    gateway = await open_gateway(rate_limit=quota)
    assert (await gateway.post("/v1/auth/token")).status_code == 200
    for _ in range(3):
        refused = await gateway.post("/v1/auth/token")
        assert refused.json()["detail"].startswith("Quota spent: default; ")
        assert '"login";r=4;' in refused.headers["ratelimit"]


async def test_a_304_is_free(open_gateway: Any, users: Any, act: Any, bearer: dict[str, str]) -> None:
    users.on("GET /v1/me", act.raw(b'HTTP/1.1 304 Not Modified\r\nETag: "3"\r\n\r\n'))
    gateway = await open_gateway(rate_limit=_quota(2))
    for _ in range(5):
        response = await gateway.get("/v1/me", headers=bearer | {"If-None-Match": '"3"'})
        assert (response.status_code, response.headers["ratelimit"].split(";")[1]) == (304, "r=2")
    statuses = [(await gateway.get("/v1/orders", headers=bearer)).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    refused = await gateway.get("/v1/me", headers=bearer | {"If-None-Match": '"3"'})
    assert refused.status_code == 429, "one has to be left to ask at all"


async def test_what_is_answered_around_the_edge_is_not_counted_and_says_nothing(
    open_gateway: Any, orders: Any, act: Any, hold: Any, bearer: dict[str, str]
) -> None:
    held = hold()
    orders.on("GET /v1/orders", act.answer({}, held=held))
    gateway = await open_gateway(rate_limit=_quota(2), http={"limit_concurrency": 1})
    under_way = asyncio.create_task(gateway.get("/v1/orders", headers=bearer))
    await held.reached(1)
    busy = await gateway.get("/v1/orders", headers=bearer)
    held.open()
    assert (await under_way).headers["ratelimit"].startswith('"default";r=1;')
    answers = [
        busy,
        await gateway.get("/v1/orders", headers=bearer | {"X-Long": "x" * 20_000}),
        await gateway.get("/v1/orders", headers=bearer | {"X-Deadline-Ms": "soon"}),
        await gateway.post("/v1/users", content=b"x" * 300_000),
    ]
    assert [answer.status_code for answer in answers] == [503, 431, 400, 413]
    assert not [answer.status_code for answer in answers if {"ratelimit", "ratelimit-policy"} & set(answer.headers)]
    assert (await gateway.get("/v1/orders", headers=bearer)).headers["ratelimit"].startswith('"default";r=0;')
