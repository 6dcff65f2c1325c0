"""Welcome mails: one per registration, sent again only if a crash came between sending and noting it.

The model for effects outside the database: claim an inbox row, do it, note it. A claim runs out, so that a crash
leaves nothing undone, and the Message-ID is the event's, so that a mail sent twice is recognised as one.
"""

from typing import Final

from shop_common.events.envelope import Event
from shop_common.events.users import UserRegistered
from shop_users.mail import Mailer, welcome_mail
from shop_users.store.mails import MailStore

CLAIM_SECONDS: Final = 60.0
"""Longer than a consumer lets a handler run."""


class MailUnderWay(ConnectionError):
    """Another worker is sending this mail, or was when it died: look again later."""


class WelcomeMails:
    def __init__(self, store: MailStore, mailer: Mailer | None) -> None:
        self._store = store
        self._mailer = mailer

    async def send(self, event: Event, user: UserRegistered) -> None:
        """Nothing where it was sent or there is no mailer. Raises MailRejected, MailServerAway or MailUnderWay."""
        if self._mailer is None:
            return
        if not await self._store.claim(event.id, CLAIM_SECONDS):
            if await self._store.is_sent(event.id):
                return
            raise MailUnderWay(f"the mail for {event.id} is claimed")
        try:
            await self._mailer.send(welcome_mail(event, user, self._mailer.sender))
        except Exception:
            await self._store.release(event.id)
            raise
        await self._store.mark_sent(event.id)
