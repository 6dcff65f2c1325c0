"""Demo data, made through the public API; running it again adds nothing."""

from shop_cluster.gateway_client import Gateway, Json, Refused
from shop_cluster.state import State

DEMO_EMAIL = "demo@example.com"
UNAUTHORIZED = 401

# Each order's own Idempotency-Key makes it one order however often this runs.
ORDERS: dict[str, tuple[str, list[tuple[str, int, int]]]] = {
    "demo-espresso": ("paid", [("espresso-beans-1kg", 2, 1899), ("filter-papers-100", 1, 449)]),
    "demo-grinder": ("paid", [("hand-grinder", 1, 7900)]),
    "demo-cups": ("confirmed", [("cup-porcelain", 6, 650)]),
    "demo-kettle": ("confirmed", [("kettle-gooseneck", 1, 5490), ("scale-0.1g", 1, 3990)]),
    "demo-chairs": ("cancelled", [("chair-oak", 4, 12900)]),
}


def demo_password(state: State) -> str:
    return state.secret("demo")


def items_of(lines: list[tuple[str, int, int]]) -> list[Json]:
    return [
        {"sku": sku, "quantity": quantity, "unit_price": {"amount": amount, "currency": "EUR"}}
        for sku, quantity, amount in lines
    ]


def log_in_demo_user(state: State, gateway: Gateway) -> None:
    """Log the demo user in, registering it the first time."""
    try:
        gateway.log_in(DEMO_EMAIL, demo_password(state))
    except Refused as refused:
        if refused.status != UNAUTHORIZED:
            raise
        gateway.register(DEMO_EMAIL, "demo", demo_password(state))
        gateway.log_in(DEMO_EMAIL, demo_password(state))


def seed(state: State) -> dict[str, int]:
    """The demo user and an order per entry of `ORDERS`, in its state; returns how many orders are in each."""
    with Gateway(state) as gateway:
        log_in_demo_user(state, gateway)
        counts: dict[str, int] = {}
        for key, (status, lines) in ORDERS.items():
            order = gateway.place_order(items_of(lines), key)
            # The stored answer may be as old as the order: what it is now decides.
            now = gateway.call("GET", f"/v1/orders/{order['id']}").json()["status"]
            if now == "pending":
                gateway.wait_for_order(order["id"], "confirmed")
                now = "confirmed"
            if now == "confirmed" and status != "confirmed":
                now = gateway.move_order(order["id"], {"paid": "pay", "cancelled": "cancel"}[status])["status"]
            counts[now] = counts.get(now, 0) + 1
        return counts
