"""Real members of etcd on loopback, with ports and data of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from guard.adapters.etcd import EtcdGateway
from guard.errors import PairguardError
from guard.ports import Range
from tests.adapters.bus_contract import until

ETCD = shutil.which("etcd", path="/usr/bin:/usr/local/bin")
ETCDCTL = shutil.which("etcdctl", path="/usr/bin:/usr/local/bin")
needs_etcd = pytest.mark.skipif(ETCD is None or ETCDCTL is None, reason="etcd and etcdctl are not installed")


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class Members:
    """A cluster. `endpoints` in the order of its members; each is stopped with SIGSTOP, or killed."""

    def __init__(self, folder: Path, count: int, *more: str, tls: Path | None = None) -> None:
        self.folder, self.more, self.tls = folder, more, tls
        self._ports = free_ports(2 * count)
        scheme = "https" if tls is not None else "http"
        self.endpoints = [f"{scheme}://127.0.0.1:{port}" for port in self._ports[:count]]
        self.peers = [f"http://127.0.0.1:{port}" for port in self._ports[count:]]
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, number: int) -> subprocess.Popen[bytes]:
        assert ETCD
        client, peer = self.endpoints[number], self.peers[number]
        cluster = ",".join(f"m{n}={each}" for n, each in enumerate(self.peers))
        command = [
            *(ETCD, "--name", f"m{number}", "--data-dir", str(self.folder / f"m{number}")),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", cluster, "--logger", "zap", "--log-level", "warn", *self.more),
        ]
        if self.tls is not None:
            own, key = self.tls / "broker.crt", self.tls / "broker.key"
            command += ["--cert-file", str(own), "--key-file", str(key)]
        with (self.folder / f"m{number}.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def listens(self, number: int) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._ports[number]), 0.5):
            return True
        return False

    def ctl(self, *words: str) -> str:
        assert ETCDCTL
        command = [ETCDCTL, "--endpoints", ",".join(self.endpoints), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout

    def leader(self) -> int:
        """The number of the member that leads."""
        for each in json.loads(self.ctl("endpoint", "status", "-w", "json")):
            if each["Status"]["leader"] == each["Status"]["header"]["member_id"]:
                return self.endpoints.index(each["Endpoint"])
        raise AssertionError("nobody leads")

    def signal(self, number: int, how: signal.Signals) -> None:
        """SIGSTOP: back once all its threads stand still."""
        process = self.processes[number]
        process.send_signal(how)
        if how is signal.SIGSTOP:
            os.waitpid(process.pid, os.WUNTRACED)


@asynccontextmanager
async def members(folder: Path, count: int = 1, *more: str, tls: Path | None = None) -> AsyncIterator[Members]:
    """Up until the end, when whatever is left of them is killed. `tls`: a folder with broker.crt and broker.key."""
    made = Members(folder, count, *more, tls=tls)
    made.processes = [made.start(n) for n in range(count)]
    try:
        for n in range(count):
            await until(lambda n=n: made.listens(n), "etcd listens")  # type: ignore[misc]
        if tls is None:
            for endpoint in made.endpoints:
                await answers(endpoint)
        yield made
    finally:
        for process in made.processes:
            process.kill()
            process.wait()


async def answers(endpoint: str) -> None:
    """It has a leader, and answers."""
    client = EtcdGateway([endpoint])
    error: Exception | None = None
    for _ in range(20):
        try:
            await client.transact([], (), [Range("x")], deadline_s=5.0)
        except PairguardError as found:
            error = found
            await asyncio.sleep(0.1)
            continue
        await client.close()
        return
    raise AssertionError(f"etcd does not answer: {error}")
