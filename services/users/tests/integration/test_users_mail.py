"""Welcome mails against a real SMTP server: once per registration, whatever is redelivered."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.message import Message
from mailbox import Maildir
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP

from shop_cluster.pytest_plugin import Server
from shop_common.events.envelope import Event
from shop_common.events.users import UserRegistered
from shop_common.postgres import Postgres
from shop_users.mail import Mailer, MailRejected, MailServerAway
from shop_users.service.welcome import MailUnderWay, WelcomeMails
from shop_users.settings import SmtpSettings
from shop_users.store.mails import MailStore

NOW = datetime.now(UTC)


def registration(email: str | None = None) -> tuple[Event, UserRegistered]:
    user_id = uuid.uuid4()
    user = UserRegistered(
        id=user_id,
        email=email or f"{user_id}@example.com",
        username="ada",
        full_name="Ada Lovelace",
        role="customer",
        is_active=True,
        version=1,
        created_at=NOW,
        updated_at=NOW,
    )
    return user.to_event(), user


@pytest.fixture
def welcome(mail_server: Server, postgres: Postgres) -> WelcomeMails:
    smtp = SmtpSettings(host=mail_server.host, port=mail_server.port)
    return WelcomeMails(MailStore(postgres), Mailer(smtp))


def received(mail_server: Server, address: str) -> list[Message]:
    return [mail for mail in Maildir(mail_server.url) if mail["To"] == address]


async def test_a_mail_is_sent_once_however_often_its_event_comes(welcome: WelcomeMails, mail_server: Server) -> None:
    event, user = registration()
    for _ in range(3):
        await welcome.send(event, user)
    (mail,) = received(mail_server, user.email)
    assert mail["Message-ID"] == f"<{event.id}@shop.example>"
    assert mail["From"] == "welcome@shop.example"
    assert mail["Subject"] == "Welcome"
    for chosen in ("ada", "Ada Lovelace"):
        assert chosen not in str(mail.get_payload()), "what a registrant writes is not sent to strangers"


async def test_workers_that_get_it_at_once_send_one(welcome: WelcomeMails, mail_server: Server) -> None:
    event, user = registration()
    outcomes = await asyncio.gather(*(welcome.send(event, user) for _ in range(5)), return_exceptions=True)
    assert all(outcome is None or isinstance(outcome, MailUnderWay) for outcome in outcomes)
    assert len(received(mail_server, user.email)) == 1
    await welcome.send(event, user)
    assert len(received(mail_server, user.email)) == 1


async def test_a_crash_between_sending_and_noting_it_sends_it_again_as_the_same_mail(
    welcome: WelcomeMails, mail_server: Server, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    event, user = registration()

    async def crash(*_: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(MailStore, "mark_sent", crash)
        with pytest.raises(asyncio.CancelledError):
            await welcome.send(event, user)
    with pytest.raises(MailUnderWay):  # nobody can tell a crash from a slow server before the claim runs out
        await welcome.send(event, user)
    await postgres.execute("UPDATE welcome_mails SET claimed_until = now()")
    await welcome.send(event, user)
    await welcome.send(event, user)
    first, second = received(mail_server, user.email)
    assert first["Message-ID"] == second["Message-ID"]


async def test_without_a_mail_server_configured_nothing_happens(postgres: Postgres) -> None:
    await WelcomeMails(MailStore(postgres), None).send(*registration())
    assert await postgres.fetchval("SELECT count(*) FROM welcome_mails") == 0


async def test_a_server_that_is_away_is_tried_again_at_once_when_it_is_back(
    welcome: WelcomeMails, postgres: Postgres, mail_server: Server
) -> None:
    event, user = registration()
    away = WelcomeMails(MailStore(postgres), Mailer(SmtpSettings(host="127.0.0.1", port=1)))
    for _ in range(2):
        with pytest.raises(MailServerAway):
            await away.send(event, user)
    await welcome.send(event, user)
    assert len(received(mail_server, user.email)) == 1


class Refusing:
    """Says at each step what it is told to."""

    def __init__(self) -> None:
        self.recipient = self.data = "250 OK"

    async def handle_RCPT(self, _: Any, __: Any, envelope: Any, address: str, ___: Any) -> str:  # noqa: N802 - aiosmtpd's name
        envelope.rcpt_tos.append(address)
        return self.recipient

    async def handle_DATA(self, *_: Any) -> str:  # noqa: N802 - aiosmtpd's name
        return self.data


@pytest.fixture
async def refusing() -> AsyncIterator[tuple[Refusing, Mailer]]:
    handler = Refusing()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(handler, enable_SMTPUTF8=False), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    yield handler, Mailer(SmtpSettings(host="127.0.0.1", port=port))
    server.close()


@pytest.mark.parametrize(
    ("step", "answer", "error"),
    [
        ("recipient", "550 no such mailbox", MailRejected),
        ("recipient", "450 come back later", MailRejected),
        ("data", "554 looks like spam", MailRejected),
        ("recipient", "421 too many connections", MailServerAway),
    ],
)
async def test_what_concerns_one_mail_is_told_from_what_concerns_all(
    refusing: tuple[Refusing, Mailer], postgres: Postgres, step: str, answer: str, error: type[Exception]
) -> None:
    handler, mailer = refusing
    setattr(handler, step, answer)
    welcome = WelcomeMails(MailStore(postgres), mailer)
    event, user = registration()
    for _ in range(2):  # a refusal releases the claim
        with pytest.raises(error):
            await welcome.send(event, user)
    setattr(handler, step, "250 OK")
    await welcome.send(event, user)
    assert await MailStore(postgres).is_sent(event.id)


async def test_an_address_the_server_cannot_write_is_a_rejected_mail(
    refusing: tuple[Refusing, Mailer], postgres: Postgres
) -> None:
    with pytest.raises(MailRejected, match="cannot write"):
        await WelcomeMails(MailStore(postgres), refusing[1]).send(*registration("адам@example.com"))


async def test_a_server_that_never_answers_is_given_up(postgres: Postgres, silent_port: int) -> None:
    smtp = SmtpSettings(host="127.0.0.1", port=silent_port, timeout_seconds=0.2)
    with pytest.raises(MailServerAway):
        await WelcomeMails(MailStore(postgres), Mailer(smtp)).send(*registration())


@pytest.fixture
async def silent_port() -> AsyncIterator[int]:
    ended = asyncio.Event()

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    yield int(server.sockets[0].getsockname()[1])
    ended.set()
    server.close()
