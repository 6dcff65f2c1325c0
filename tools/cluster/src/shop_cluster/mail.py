"""A mail catcher: `python -m shop_cluster.mail PORT FOLDER` takes every mail and keeps it as a file."""

import signal
import sys
import threading
from email.message import Message
from mailbox import Maildir

from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message as MessageHandler

from shop_cluster.ports import HOST


class _Catcher(MessageHandler):
    """Keeps each mail in a Maildir, where any mail reader opens it."""

    def __init__(self, box: Maildir) -> None:
        super().__init__()
        self._box = box

    def handle_message(self, message: Message) -> None:
        self._box.add(message)
        print(f"{message['X-RcptTo']}: {message['Subject']}", flush=True)


def main() -> None:
    controller = Controller(_Catcher(Maildir(sys.argv[2])), hostname=HOST, port=int(sys.argv[1]))
    controller.start()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    controller.stop()


if __name__ == "__main__":
    main()
