"""The inbox of welcome mails: which were sent, and which is being sent right now."""

from uuid import UUID

from shop_common.postgres import Postgres

CLAIM = """
INSERT INTO welcome_mails AS mail (event_id, claimed_until)
VALUES ($1, clock_timestamp() + make_interval(secs => $2))
ON CONFLICT (event_id) DO UPDATE SET claimed_until = excluded.claimed_until
  WHERE mail.sent_at IS NULL AND mail.claimed_until <= clock_timestamp()
RETURNING event_id
"""
IS_SENT = "SELECT sent_at IS NOT NULL FROM welcome_mails WHERE event_id = $1"
MARK_SENT = "UPDATE welcome_mails SET sent_at = clock_timestamp() WHERE event_id = $1"
RELEASE = "UPDATE welcome_mails SET claimed_until = clock_timestamp() WHERE event_id = $1"


class MailStore:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def claim(self, event_id: UUID, seconds: float) -> bool:
        """Whether this caller is to send it; nobody else gets it for so long."""
        return await self._postgres.fetchval(CLAIM, event_id, seconds) is not None

    async def is_sent(self, event_id: UUID) -> bool:
        return bool(await self._postgres.fetchval(IS_SENT, event_id))

    async def mark_sent(self, event_id: UUID) -> None:
        await self._postgres.execute(MARK_SENT, event_id)

    async def release(self, event_id: UUID) -> None:
        """It was not sent: the next try need not wait."""
        await self._postgres.execute(RELEASE, event_id)
