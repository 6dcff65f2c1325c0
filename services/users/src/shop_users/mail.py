"""Sending mail over SMTP, with an end to every wait and each failure told apart by what can be done about it."""

from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final

import aiosmtplib

from shop_common.events.envelope import Event
from shop_common.events.users import UserRegistered
from shop_users.settings import SmtpSettings

CLOSING: Final = 421
"""Said instead of any other answer by a server that wants to be left alone."""


class MailRejected(Exception):
    """The server does not take this mail; others it may take."""


class MailServerAway(ConnectionError):
    """No server, or none that works: every mail would fail."""


def welcome_mail(event: Event, user: UserRegistered, sender: str) -> EmailMessage:
    """The mail for a registration; the same event makes the same Message-ID, so that a reader can drop doubles.

    Nobody has proved yet whose address it is, so nothing is in it that the registrant could choose: no spam by us.
    """
    mail = EmailMessage()
    mail["From"] = sender
    mail["To"] = user.email
    mail["Subject"] = "Welcome"
    mail["Date"] = format_datetime(event.time)
    mail["Message-ID"] = f"<{event.id}@{sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(
        "Hello,\n\n"
        "your account is ready: log in with this address or with your username.\n\n"
        "If it was not you who registered, write to us and we will close it.\n"
    )
    return mail


class Mailer:
    """One connection per mail: welcome mails are rare."""

    def __init__(self, settings: SmtpSettings) -> None:
        self._settings = settings
        self.sender = settings.sender

    async def send(self, mail: EmailMessage) -> None:
        """Return once the server has taken it. Raises MailRejected or MailServerAway."""
        settings = self._settings
        try:
            await aiosmtplib.send(
                mail,
                hostname=settings.host,
                port=settings.port,
                use_tls=settings.security == "tls",
                start_tls=settings.security == "starttls",
                username=settings.username,
                password=settings.password.get_secret_value() if settings.password else None,
                timeout=settings.timeout_seconds,
            )
        except aiosmtplib.SMTPRecipientsRefused as refused:
            raise _refusal("recipient", refused.recipients[0].code) from None
        except aiosmtplib.SMTPDataError as rejected:
            raise _refusal("text", rejected.code) from None
        except aiosmtplib.SMTPNotSupported:
            raise MailRejected("the server cannot write to such an address") from None
        except (aiosmtplib.SMTPException, OSError) as error:
            raise MailServerAway(f"mail server: {type(error).__name__}") from error


def _refusal(what: str, code: int) -> Exception:
    reason = f"{what} refused with {code}"
    return MailServerAway(reason) if code == CLOSING else MailRejected(reason)
