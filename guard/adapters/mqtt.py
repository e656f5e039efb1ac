"""The bus over MQTT 5: signed messages through one broker, one inbox topic a party (`guard.ports.Bus`).

1. A PUBACK is no promise. `send` uses it only to learn of a refusal; what counts is the other party's signed answer.
2. No name is resolved on the way to a decision: the broker's address is an IP literal, see `resolve_once`.
3. Nothing of a connection that was given up travels on: it is reset, so the kernel forgets what it had not delivered.
4. Nothing is retained, no session outlives its connection, every reconnect subscribes anew, and all of it is jittered.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import math
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiomqtt
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import MQTTMessage
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from guard import documents
from guard.adapters.inbox import Inbox, OnReject, backoff
from guard.core.instant import Instant
from guard.errors import SettingsError
from guard.ports import Clock, Delivery
from guard.wire import BYTES_MAX, MESSAGES, Keyring, Kinds, Opener, Signer, checked_name

CONNECT_S_MAX = 1.0  # TCP, and each step of the TLS handshake; paho's own default is 5 s
SESSION_S_MAX = 4.0  # TCP + TLS + CONNACK + SUBACK together
SEND_S_MAX = 1.0
KEEPALIVE_S = 2  # a frozen broker is noticed after two of these: 4.0 s measured
UNACKED_MS_MAX = 4000  # TCP_USER_TIMEOUT (tcp(7)): same patience as the keepalive
IN_FLIGHT_MAX = 16  # below the broker's receive maximum (mosquitto: max_inflight_messages 20), which paho ignores
OUTGOING_MAX = 256
PACKET_MAX = BYTES_MAX + 1024  # topic and properties beside a full envelope

_SOCKET_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),  # Nagle costs 90 ms a round trip (measured; 0.8 ms without)
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKED_MS_MAX),
    (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)),  # law 3: close() resets
)


def topic_of(site: str, party: str) -> str:
    """A party's inbox."""
    return f"pairguard/{site}/{party}/in"


async def resolve_once(host: str, deadline_s: float = 5.0) -> str:
    """The IP address of `host`, for use once at start. `SettingsError` if it does not resolve in time."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host))
    try:
        async with asyncio.timeout(deadline_s):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError) as error:
        raise SettingsError(
            f"cannot resolve the broker {host}", str(error) or "no answer in time", "write its IP address instead"
        ) from error
    return str(found[0][4][0])


class _NamedContext(ssl.SSLContext):
    """Checks the broker's certificate against its name although we connect to an address."""

    expected: str | None = None

    def wrap_socket(
        self,
        sock: socket.socket,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLSocket:
        name = self.expected or server_hostname
        return super().wrap_socket(sock, server_side, do_handshake_on_connect, suppress_ragged_eofs, name, session)


def tls_context(ca: Path, certificate: Path | None, key: Path | None, server_name: str | None = None) -> ssl.SSLContext:
    """TLS 1.3 with this party's client certificate, if it has one. `server_name` None: the certificate of the other
    side must carry its IP address. `SettingsError` if a file is missing or does not fit.
    """
    context = _NamedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.expected = server_name
    for path in (ca, certificate, key):
        try:
            if path is not None:
                path.read_bytes()
        except OSError as error:
            why = documents.why(error)
            raise SettingsError(f"cannot read the TLS file {path}", why, "see configs/mosquitto/README.md") from error
    try:
        context.load_verify_locations(ca)
    except OSError as error:
        why = "it holds no certificate in PEM: damaged, or not copied whole"
        raise SettingsError(f"cannot use the CA {ca}", why, "copy the CA's certificate here") from error
    if certificate is None or key is None:
        return context
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")  # else OpenSSL asks a terminal, and waits
    except OSError as error:
        what = f"cannot use the certificate {certificate}"
        raise SettingsError(what, *_unfit(getattr(error, "reason", None), certificate, key)) from error
    return context


def _unfit(reason: str | None, certificate: Path, key: Path) -> tuple[str, str]:
    """Why a certificate and a key are no use, and what to do."""
    if reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
        return f"{key} is not its key: one of the two is another party's", "copy this party's own certificate and key"
    if b"ENCRYPTED" in key.read_bytes():  # what OpenSSL says of it differs from version to version
        return (
            f"{key} is locked with a pass phrase, and nobody is there to type it",
            f"umask 077; openssl pkey -in {key} -out {key}.open && mv {key}.open {key}",
        )
    why = f"it or {key} is no PEM: damaged, not copied whole, or too weak for TLS 1.3"
    return why, f"openssl x509 -in {certificate} -noout -subject; openssl pkey -in {key} -noout"


def _properties(packet: int) -> Properties:
    return Properties(packet)  # type: ignore[no-untyped-call]  # paho declares itself typed, this class is not


class _Lost(Exception):
    """This connection is over; try again."""


class _Connection(aiomqtt.Client):
    """One connection, used once. Adds to aiomqtt 2.5 (touching private names of it and of paho 2, hence both pins):

    reason codes of PUBACKs, a bounded connect, messages judged at arrival, and an end that leaves nothing behind.
    """

    def __init__(self, host: str, port: int, party: str, tls: ssl.SSLContext | None, take: Callable[[bytes], None]):
        properties = _properties(PacketTypes.CONNECT)
        properties.MaximumPacketSize = PACKET_MAX
        super().__init__(
            host,
            port,
            identifier=party,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=True,
            keepalive=KEEPALIVE_S,
            timeout=SEND_S_MAX,
            properties=properties,
            tls_context=tls,
            socket_options=_SOCKET_OPTIONS,
            max_inflight_messages=0,  # paho must hold nothing back: what waits there would be sent late
            max_queued_outgoing_messages=OUTGOING_MAX,
        )
        self._client.connect_timeout = CONNECT_S_MAX
        self._take = take
        self._acks: dict[int, asyncio.Future[ReasonCode | None]] = {}
        self._given_up = False
        self.retained_ignored = 0

    def hand_over(self, topic: str, payload: bytes, properties: Properties) -> asyncio.Future[ReasonCode | None] | None:
        """Give one QoS 1 message to the socket. None: not taken. The future: its PUBACK, None = the connection ended.

        Callbacks run in this loop, so the PUBACK cannot come before the future is in place.
        """
        info = self._client.publish(topic, payload, 1, False, properties)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            return None
        ack: asyncio.Future[ReasonCode | None] = self._loop.create_future()
        self._acks[info.mid] = ack
        return ack

    async def over(self) -> str:
        """Wait until the connection is lost; why."""
        await asyncio.wait({self._disconnected})
        error = self._disconnected.exception()
        return str(error) if error else "the broker closed the connection"

    def drop(self) -> None:
        """End it, now and without a word; safe to call at any time."""
        self._given_up = True
        for ack in self._acks.values():
            if not ack.done():
                ack.set_result(None)
        self._acks.clear()
        for ended in (self._connected, self._disconnected):
            if ended.done() and not ended.cancelled():
                ended.exception()  # looked at, so that asyncio does not print it
        self._loop.call_soon(self._client._sock_close)  # after callbacks that still name this socket

    def _client_connect(self) -> None:
        """Runs in a thread, which cannot be cancelled: if we gave up meanwhile, the new socket goes at once."""
        super()._client_connect()
        if self._given_up:
            self._loop.call_soon_threadsafe(self._client._sock_close)

    def _on_publish(
        self, client: PahoClient, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        ack = self._acks.pop(mid, None)
        if ack is not None and not ack.done():
            ack.set_result(reason_code)

    def _on_message(self, client: PahoClient, userdata: Any, message: MQTTMessage) -> None:
        if message.retain:
            self.retained_ignored += 1  # old by definition; we never retain
            return
        self._take(bytes(message.payload))


class MqttBus:
    """`guard.ports.Bus` of one party. `run` keeps it connected and is started once, as a task.

    `host` must be an IP literal (`resolve_once` makes one, at start); else `SettingsError`.
    `tls` None is for loopback and tests only. `on_reject` gets every refused message and must not raise.
    `failure` says why the last connection ended (None = never failed); `refused`, `unacked` count sends.
    """

    def __init__(
        self,
        signer: Signer,
        keyring: Keyring,
        clock: Clock,
        *,
        host: str,
        port: int,
        tls: ssl.SSLContext | None = None,
        on_reject: OnReject | None = None,
        kinds: Kinds = MESSAGES,
    ) -> None:
        try:
            self._host = str(ipaddress.ip_address(host))
        except ValueError as error:
            raise SettingsError(
                f"cannot use {host!r} as the broker's address",
                "it is no IP address, and no name is resolved on the way to a decision",
                "write the broker's IP address",
            ) from error
        self._signer, self._clock, self._port, self._tls = signer, clock, port, tls
        self._inbox = Inbox(Opener(signer.party, signer.site, keyring, pair=signer.pair, kinds=kinds), clock, on_reject)
        self._connection: _Connection | None = None
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._outgoing = 0
        self.connected_since: Instant | None = None
        self.failure: str | None = None
        self.refused = 0
        self.unacked = 0

    @property
    def inbox(self) -> Inbox:
        """Counters of what was dropped and rejected."""
        return self._inbox

    def connected(self) -> bool:
        """True: the broker took our connection and our subscription, and neither was seen to end."""
        return self._connection is not None

    def deliveries(self) -> AsyncIterator[Delivery]:
        return self._inbox.deliveries()

    async def run(self) -> None:
        """Connect, subscribe, and again whenever that ends. Ends only by cancellation."""
        attempt = 0
        while True:
            await self._clock.sleep(backoff(attempt, self._clock.jitter))
            attempt += 1
            connection = _Connection(self._host, self._port, self._signer.party, self._tls, self._inbox.put)
            try:
                await self._open(connection)
                attempt = 1
                self.failure = await connection.over()
            except (_Lost, aiomqtt.MqttError, TimeoutError) as error:
                self.failure = str(error) or "no answer from the broker in time"
                if self._tls is not None and "timed out" in self.failure:
                    # TLS 1.3 tells of a refused client certificate only after the handshake; paho hears silence.
                    self.failure += " (is our certificate one that the broker accepts?)"
            finally:
                self._connection, self.connected_since = None, None
                connection.drop()

    async def send(self, to: str, body: object, *, expires_s: float) -> bool:
        """Hand one message to the broker within 1 s. False: it was certainly not taken (down, full, or refused).

        True says nothing about arrival. The broker counts expiry in whole seconds, at least one.
        """
        checked_name("party", to)
        sealed = self._signer.seal(to, body)
        connection = self._connection
        if connection is None or self._outgoing >= OUTGOING_MAX:
            self.refused += 1
            return False
        self._outgoing += 1
        handed = False
        try:
            async with asyncio.timeout(SEND_S_MAX), self._slots:
                ack = connection.hand_over(topic_of(self._signer.site, to), sealed, self._properties(body, expires_s))
                handed = ack is not None
                code = None if ack is None else await ack
        except TimeoutError:
            code = None
        finally:
            self._outgoing -= 1
        if not handed or (code is not None and code.is_failure):
            self.refused += 1
            return False
        if code is None:
            self.unacked += 1
        return True

    def _properties(self, body: object, expires_s: float) -> Properties:
        properties = _properties(PacketTypes.PUBLISH)
        properties.MessageExpiryInterval = max(1, math.ceil(expires_s))
        properties.ResponseTopic = topic_of(self._signer.site, self._signer.party)
        nonce = getattr(body, "nonce", None)
        if isinstance(nonce, str):
            properties.CorrelationData = nonce.encode()
        return properties

    async def _open(self, connection: _Connection) -> None:
        async with asyncio.timeout(SESSION_S_MAX):
            await connection.__aenter__()
            answer = await connection.subscribe(
                topic_of(self._signer.site, self._signer.party),
                options=SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND),
            )
        for code in answer:
            if isinstance(code, ReasonCode) and code.is_failure:
                raise _Lost(f"the broker refused our inbox: {code}")
        self._connection, self.connected_since = connection, self._clock.now()
