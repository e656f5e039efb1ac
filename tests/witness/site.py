"""A small real site for tests: a broker or hub on loopback, the witness as a process of its own, scripted guards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from guard import wire
from guard.adapters import bus as buses
from guard.adapters.clock import BootClock
from guard.adapters.control import ask
from guard.adapters.hub import Hub
from guard.core.messages import ARBITER, Attest, Beat, BeatAck, Claim, Commit, Init, Message, Offer
from guard.settings import Bus as BusSettings
from guard.settings import Keys
from tests.adapters.bus_contract import until
from tests.core.desk import QUIET, evidence

SITE = "lab"
MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
AGAIN_S = 0.4  # a scripted guard repeats itself until it is answered, as a real one does
PATIENCE_S = 20.0
M = TypeVar("M", bound=Message)


def environment() -> dict[str, str]:
    """What a daemon of ours gets: nothing of systemd, and our sources."""
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(Path(__file__).parents[2])}


def make_keys(folder: Path, *parties: str) -> None:
    (folder / "pub").mkdir(exist_ok=True)
    for party in parties:
        wire.generate(folder / f"{party}.pem", folder / "pub" / f"{party}.pub")


class Program:
    """One of our daemons, as a child. `said` is everything that it wrote."""

    def __init__(self, folder: Path, module: str, config: Path, *prefix: str) -> None:
        self._log = folder / f"{module.rsplit('.', 2)[-2]}.log"
        with self._log.open("ab") as log:
            command = [*prefix, sys.executable, "-m", module, "--config", str(config)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment())

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(PATIENCE_S)

    async def ended(self) -> int:
        await until(lambda: self.process.poll() is not None, f"the program ends\n{self.said[-500:]}")
        return self.process.wait()


class Site:
    """Keys, a bus, and settings; `witness` starts the arbiter."""

    def __init__(self, folder: Path, kind: Literal["mqtt", "hub"], *parties: str) -> None:
        self.folder, self.kind, self.parties = folder, kind, parties
        self.clock = BootClock()
        make_keys(folder, ARBITER, *parties)
        self.settings = BusSettings(kind=kind, port=_free_port(), socket=folder / "hub.sock")
        self.state, self.run = folder / "state", folder / "run"
        self.config = folder / "witness.toml"
        self.config.write_text(
            f'site = "{SITE}"\n[keys]\nprivate = "{folder}/arbiter.pem"\npublic_dir = "{folder}/pub"\n'
            f'[bus]\nkind = "{kind}"\nport = {self.settings.port}\nsocket = "{folder}/hub.sock"\n'
            f'[paths]\nstate = "{self.state}"\nrun = "{self.run}"\n[log]\nto = "stderr"\n'
        )

    @asynccontextmanager
    async def bus(self) -> AsyncIterator[None]:
        """Mosquitto, or the hub in this process."""
        if self.kind == "hub":
            hub = Hub(self.folder / "hub.sock", self.clock)
            task = asyncio.create_task(hub.run())
            await until(hub.ready.is_set, "the hub listens")
            try:
                yield
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            return
        assert MOSQUITTO
        config = self.folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.settings.port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nuser root\n"
        )
        with (self.folder / "mosquitto.log").open("ab") as log:
            broker = subprocess.Popen([MOSQUITTO, "-c", str(config)], stdout=log, stderr=log)  # noqa: ASYNC220
        try:
            await until(self._listens, "the broker listens")
            yield
        finally:
            broker.kill()
            broker.wait()

    def start(self, *prefix: str) -> Program:
        return Program(self.folder, "guard.witness.main", self.config, *prefix)

    @asynccontextmanager
    async def witness(self, *prefix: str) -> AsyncIterator[Program]:
        """The arbiter, up to its first status; killed at the end unless it was stopped."""
        program = self.start(*prefix)
        try:
            await until(lambda: self.shows() or program.process.poll() is not None, "the witness shows itself")
            assert program.process.poll() is None, program.said
            yield program
        finally:
            program.stop(signal.SIGKILL)

    def shows(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.run / "status.sock"))
            except OSError:
                return False
        return True

    async def status(self) -> dict[str, Any]:
        return await ask(self.run / "status.sock", "status", {}, PATIENCE_S)

    async def shown(self) -> dict[str, Any]:
        """The one pair in the witness's status."""
        [pair] = (await self.status())["pairs"]
        assert isinstance(pair, dict)
        return pair

    @asynccontextmanager
    async def guards(self, *nodes: str, pair: str = "fs1") -> AsyncIterator[list[Scripted]]:
        made = [Scripted(self, node, pair) for node in nodes]
        tasks = [asyncio.create_task(work()) for each in made for work in (each.bus.run, each.listen)]
        try:
            for each in made:
                await until(each.bus.connected, f"{each.node} connected")
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @asynccontextmanager
    async def crowd(self, nodes: list[str]) -> AsyncIterator[list[Scripted]]:
        """Many guards, each of the pair that its name begins with."""
        made = [Scripted(self, node, node[:-1]) for node in nodes]
        tasks = [asyncio.create_task(work()) for each in made for work in (each.bus.run, each.listen)]
        try:
            await until(lambda: all(each.bus.connected() for each in made), "all connected")
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.settings.port), 0.5):
            return True
        return False


class Scripted:
    """A guard that says what the test tells it to, with its own key, over the real bus."""

    def __init__(self, site: Site, node: str, pair: str) -> None:
        self.site, self.node = site, node
        keys = Keys(private=site.folder / f"{node}.pem", public_dir=site.folder / "pub")
        self.bus = buses.make(site.settings, keys, party=node, site=SITE, pair=pair, clock=site.clock, on_reject=None)
        self.heard: list[Message] = []
        self.nonces = 0

    async def listen(self) -> None:
        async for delivery in self.bus.deliveries():
            assert delivery.sender == ARBITER
            self.heard.append(delivery.body)  # type: ignore[arg-type]

    async def say(self, message: Message) -> None:
        await self.bus.send(ARBITER, message, expires_s=5.0)

    async def answer(self, make: Callable[[], Message], kind: type[M], fits: Callable[[M], bool] = lambda m: True) -> M:
        """Say it again and again (a new one each time) until an answer of that kind fits."""
        since = len(self.heard)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                await self.say(make())
                for _ in range(round(AGAIN_S / 0.02)):
                    for message in self.heard[since:]:
                        if isinstance(message, kind) and fits(message):
                            return message
                    await asyncio.sleep(0.02)

    async def silent(self, seconds: float, kind: type[Message]) -> bool:
        """True: nothing of that kind came within `seconds`."""
        since = len(self.heard)
        await asyncio.sleep(seconds)
        return not any(isinstance(m, kind) for m in self.heard[since:])

    # ---- the usual words

    def beat(self, **changed: Any) -> Beat:
        now = int(self.site.clock.now())
        whole = {"session": "session-1", "connected": True, "peer_member": True, "peer_lost": False, "whole": True}
        return Beat(now, hold=QUIET, **{**whole, **changed})

    async def acked(self, fits: Callable[[BeatAck], bool] = lambda ack: True, **changed: Any) -> BeatAck:
        sent: set[int] = set()

        def make() -> Beat:
            beat = self.beat(**changed)
            sent.add(beat.seq)
            return beat

        return await self.answer(make, BeatAck, lambda ack: ack.seq in sent and fits(ack))

    async def init(self, nodes: tuple[str, str]) -> Message:
        """`pairguard init`: Closed (made) or Refused."""
        nonce = self.nonce()
        return await self.answer(
            lambda: Init(nonce, nodes, nodes[0], "cell", "a person"),
            object,  # type: ignore[type-var]
            lambda m: getattr(m, "nonce", None) == nonce,
        )

    async def attest(self, **more: Any) -> None:
        """Until the arbiter's status shows it."""
        for _ in range(100):
            await self.say(self.testimony(**more))
            await asyncio.sleep(0.1)
            if self.node in (await self.site.shown())["testimony"]:
                return
        raise AssertionError("the attest was not kept")

    def testimony(self, **more: Any) -> Attest:
        now = int(self.site.clock.now())
        return Attest(now, evidence(self.node, boot_id=self.site.clock.boot_id(), **more))

    async def offer(self, purpose: str = "fence", **more: Any) -> Offer:
        """Claim until there is an offer."""

        def make() -> Claim:
            own = {"connected": False, "boot_id": self.site.clock.boot_id(), **more}
            return Claim(self.nonce(), purpose, evidence(self.node, **own), "?")  # type: ignore[arg-type]

        nonce_of: list[str] = []

        def once() -> Message:
            if not nonce_of or len(nonce_of) % 4 == 0:  # patience for T_corr and the wait for the target
                claim = make()
                nonce_of.append(claim.nonce)
                return claim
            nonce_of.append(nonce_of[-1])
            return self.beat(peer_member=False, connected=False, whole=False)

        return await self.answer(once, Offer, lambda offer: offer.nonce in nonce_of)

    async def commit(self, offer: Offer, purpose: str = "fence") -> Message:
        order = Commit(offer.nonce, offer.register.version, purpose, "device", 75.0)  # type: ignore[arg-type]
        since = len(self.heard)
        await self.say(order)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for message in self.heard[since:]:
                    if getattr(message, "nonce", None) == offer.nonce and not isinstance(message, Offer):
                        return message
                await asyncio.sleep(0.02)

    def nonce(self) -> str:
        self.nonces += 1
        return f"{self.node}-{self.nonces}-{self.site.clock.nonce()[:8]}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
