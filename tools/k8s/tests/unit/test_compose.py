"""What Compose tells processes is what they read; a difference is named."""

import pytest

from shop_k8s.compose import COMPOSE, compose_failures, processes

TEXT = COMPOSE.read_text()


def test_compose_is_in_order() -> None:
    assert [str(failure) for failure in compose_failures()] == []
    assert {process.module for process in processes(TEXT)} >= {
        *("shop_gateway.app", "shop_users.app", "shop_users.worker", "shop_users.migrate"),
        *("shop_orders.app", "shop_orders.worker", "shop_orders.indexes", "shop_common.kafka.topics"),
    }


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("USERS_KAFKA__BOOTSTRAP_SERVERS:", "USERS_KAFKA__BOOTSTRAP:", "USERS_KAFKA__BOOTSTRAP is no field"),
        ("GATEWAY_ORDERS_URL:", "GATEWAY_ORDER_URL:", "GATEWAY_ORDERS_URL: Field required"),
        ("ORDERS_MONGO__DATABASE: orders", "ORDERS_MONGO__DATABASE: or/ders", "ORDERS_MONGO__DATABASE"),
        ("secrets: [orders_cursor_key]", "secrets: [users_cursor_key]", "secret file users_cursor_key"),
        (
            "[users_postgres__password, users_cursor_key]",
            "[users_admin__password]",
            "secret file users_admin__password",
        ),
        ("shop_orders.indexes]", "shop_orders.index]", "say which settings that reads"),
    ],
)
def test_a_difference_is_named(before: str, after: str, says: str) -> None:
    assert before in TEXT
    assert any(says in str(failure) for failure in compose_failures(TEXT.replace(before, after)))
