"""A network between an IPMI client and its BMC that keeps one copy of one command back, and delivers it later."""

from __future__ import annotations

import socket
from contextlib import suppress
from threading import Thread

IPMI_PAYLOAD = 0xC0  # encrypted, authenticated, type IPMI (IPMI 2.0, table 13-16): all that follows the login
TYPE_AT = 5  # after RMCP's 4 bytes and the authentication type
COMMAND = 6  # in the session of ipmitool 1.8.19: five that prepare, then what it came for, then the close


class Relay:
    """Forwards datagrams to `port`. Of the sessions (one client address each) it treats number `session` so: the first
    copy of its command is kept, the next one passes, and whatever comes after the command was answered is lost."""

    def __init__(self, port: int, session: int) -> None:
        self.kept: list[bytes] = []
        self.lost = 0
        self._session, self._to = session, ("127.0.0.1", port)
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._front.bind(("127.0.0.1", 0))
        self.port = int(self._front.getsockname()[1])
        self._backs: dict[tuple[str, int], socket.socket] = {}
        self._payloads: dict[tuple[str, int], int] = {}
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def deliver(self) -> None:
        """The network thaws: what was kept reaches the BMC, from where it was sent."""
        back = list(self._backs.values())[self._session]
        for datagram in self.kept:
            back.sendto(datagram, self._to)

    def close(self) -> None:
        """End the relay; its sockets are closed."""
        self._front.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        for each in (self._front, *self._backs.values()):
            each.close()

    def _run(self) -> None:
        while True:
            datagram, client = self._front.recvfrom(65536)
            if not datagram:
                return
            if client not in self._backs:
                back = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                back.bind(("127.0.0.1", 0))
                self._backs[client] = back
                Thread(target=self._return, args=(back, client), daemon=True).start()
            number = list(self._backs).index(client)
            if number == self._session and len(datagram) > TYPE_AT and datagram[TYPE_AT] == IPMI_PAYLOAD:
                self._payloads[client] = self._payloads.get(client, 0) + 1
                if self._payloads[client] == COMMAND:
                    self.kept.append(datagram)
                    continue
                if self._payloads[client] > COMMAND + 1:
                    self.lost += 1
                    continue
            self._backs[client].sendto(datagram, self._to)

    def _return(self, back: socket.socket, client: tuple[str, int]) -> None:
        with suppress(OSError):
            while True:
                self._front.sendto(back.recv(65536), client)
