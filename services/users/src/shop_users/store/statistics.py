"""Statistics of each user's orders, kept up to date by the difference each event makes."""

from uuid import UUID

from shop_common.events.orders import OrderState
from shop_common.postgres import Postgres
from shop_users.models import Spending, Statistics

# Locks the user's counters, so that the next statement sees all that was counted before it. A worker that has lost the
# partition may come late with an older offset, and so does whoever reads the log again. `greatest` passes over nulls.
ADVANCE = """
INSERT INTO user_statistics AS kept (user_id, projected_offset) VALUES ($1, $2)
ON CONFLICT (user_id) DO UPDATE SET projected_offset = greatest(kept.projected_offset, excluded.projected_offset)
"""
# Parts of one statement see the table as it was before it: `before` is the version that `applied` replaces.
# An event that is not newer changes no row in `applied`, and therefore nothing.
APPLY = """
WITH before AS (
  SELECT status, amount, currency FROM user_orders WHERE order_id = $1
), applied AS (
  INSERT INTO user_orders AS known (order_id, user_id, version, status, amount, currency)
  VALUES ($1, $2, $3, $4, $5, $6)
  ON CONFLICT (order_id) DO UPDATE
    SET version = excluded.version, status = excluded.status, amount = excluded.amount, currency = excluded.currency
    WHERE known.version < excluded.version
  RETURNING status, amount, currency
), change AS (
  SELECT 1 AS sign, status, amount, currency FROM applied
  UNION ALL
  SELECT -1, before.status, before.amount, before.currency FROM before, applied
), counted AS (
  UPDATE user_statistics AS kept SET orders = kept.orders + total.orders, paid = kept.paid + total.paid,
    cancelled = kept.cancelled + total.cancelled
  FROM (
    SELECT sum(sign) AS orders, coalesce(sum(sign) FILTER (WHERE status = 'paid'), 0) AS paid,
      coalesce(sum(sign) FILTER (WHERE status = 'cancelled'), 0) AS cancelled
    FROM change HAVING count(*) > 0
  ) AS total
  WHERE kept.user_id = $2
)
INSERT INTO user_spending AS spent (user_id, currency, amount)
SELECT $2, currency, sum(sign * amount) FROM change WHERE status = 'paid' GROUP BY currency
ON CONFLICT (user_id, currency) DO UPDATE SET amount = spent.amount + excluded.amount
"""
FIND = """
SELECT coalesce(orders, 0) AS orders, coalesce(paid, 0) AS paid, coalesce(cancelled, 0) AS cancelled,
  ARRAY(SELECT amount FROM user_spending WHERE user_id = $1 AND amount > 0 ORDER BY currency) AS amounts,
  ARRAY(SELECT currency FROM user_spending WHERE user_id = $1 AND amount > 0 ORDER BY currency) AS currencies,
  projected_offset
FROM users LEFT JOIN user_statistics ON user_id = id WHERE id = $1
"""


class StatisticsStore:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def apply(self, order: OrderState, offset: int | None) -> None:
        """Count this version of the order instead of an older one; a version not newer only advances the offset."""
        row = (order.id, order.user_id, order.version, order.status, order.total.amount, order.total.currency)
        async with self._postgres.transaction() as transaction:
            await transaction.execute(ADVANCE, order.user_id, offset)
            await transaction.execute(APPLY, *row)

    async def find(self, user_id: UUID) -> Statistics | None:
        """Zeroes for a user without orders; None for one who does not exist."""
        row = await self._postgres.fetchrow(FIND, user_id)
        if row is None:
            return None
        amounts = map(int, row["amounts"])
        spent = tuple(Spending(*pair) for pair in zip(amounts, row["currencies"], strict=True))
        return Statistics(row["orders"], row["paid"], row["cancelled"], spent, row["projected_offset"])
