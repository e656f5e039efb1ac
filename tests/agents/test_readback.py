"""Power through a real IPMI device (ipmi_sim) and the stock fence_ipmilan, and what other exit codes mean."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import until
from relay import Relay

from fencing.readback import Readback, meaning
from fencing.stock import horizon_s, one_stream
from fencing.supervisor import Supervisor
from guard.adapters.clock import BootClock
from guard.core.evidence import Power
from guard.ports import DeviceSettings

Writer = Callable[..., DeviceSettings]
pytestmark = pytest.mark.root
LAN = """\
name "node"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 {lan}
    priv_limit admin
    allowed_auths_callback none md2 md5 straight
    allowed_auths_user none md2 md5 straight
    allowed_auths_operator none md2 md5 straight
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa123456789abcdef
  endlan
  serial 15 127.0.0.1 {serial} codec VM
  startcmd "{node}"
  startnow false
  poweroff_wait 1
  kill_wait 1
  user 1 true "" "" user 10 none md2 md5 straight
  user 2 true "fence" "s3cret" admin 10 none md2 md5 straight
"""
EMULATOR = """\
mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
sel_enable 0x20 1000 0x0a
mc_enable 0x20
"""


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Bmc:
    """One simulated node: its "power" is a real process."""

    def __init__(self, folder: Path) -> None:
        self.pid_file = folder / "node.pid"
        node = folder / "node"
        node.write_text(
            f"#!/bin/sh\necho $$ > {self.pid_file}.tmp; mv {self.pid_file}.tmp {self.pid_file}\nexec sleep 600\n"
        )
        node.chmod(0o755)
        self.port = free_port(socket.SOCK_DGRAM)
        serial = free_port(socket.SOCK_STREAM)
        (folder / "lan.conf").write_text(LAN.format(lan=self.port, serial=serial, node=node))
        (folder / "cmd.emu").write_text(EMULATOR)
        (folder / "state").mkdir()
        words = ["ipmi_sim", "-n", "-c", "lan.conf", "-f", "cmd.emu", "-s", "state"]
        self._log = (folder / "log").open("wb")
        self.process = subprocess.Popen(words, cwd=folder, stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL)

    def device(self, **options: str) -> DeviceSettings:
        words = {"ip": "127.0.0.1", "ipport": str(self.port), "username": "fence", "password": "s3cret"}
        words |= {"lanplus": "1", "cipher": "3", **options}
        return DeviceSettings("fence_ipmilan", words, horizon_s("fence_ipmilan", words), timeout_s=60.0)

    def node_runs(self) -> bool:
        try:
            return Path(f"/proc/{int(self.pid_file.read_text())}/cmdline").read_bytes().startswith(b"sleep")
        except (FileNotFoundError, ValueError):
            return False

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)
        self._log.close()
        if self.node_runs():
            with suppress(ProcessLookupError):
                os.kill(int(self.pid_file.read_text()), signal.SIGKILL)


@pytest.fixture
def bmc(tmp_path: Path) -> Iterator[Bmc]:
    if not shutil.which("ipmi_sim") or not shutil.which("fence_ipmilan"):
        pytest.skip("needs openipmi and fence-agents")
    device = Bmc(tmp_path)
    yield device
    device.close()


@pytest.mark.asyncio
async def test_off_is_read_back(bmc: Bmc, supervisor: Supervisor) -> None:
    """on, off and their read-back by fresh sessions, with the stock agent as our child; a good shot is clean."""
    clock = BootClock()
    readback = Readback(supervisor, clock)
    on = await supervisor.fire(bmc.device(), "on", "fs1b", "s1", None)
    assert on.exit_code == 0, on.output
    until(bmc.node_runs, "the node runs")
    assert await readback.status(bmc.device(), "fs1b", 30.0) == Power.ON
    off = await supervisor.fire(bmc.device(), "off", "fs1b", "s2", None)
    assert (off.exit_code, off.clean, off.killed) == (0, True, 0), off.output
    assert await readback.status(bmc.device(), "fs1b", 30.0) == Power.OFF
    until(lambda: not bmc.node_runs(), "the node is dead")


@pytest.mark.asyncio
async def test_a_copy_of_a_command_acts_after_a_clean_end(bmc: Bmc, supervisor: Supervisor) -> None:
    """Why a clean end of a datagram agent is no drain (S4): ipmitool repeated its `power off`, the agent saw the node
    off and ended with 0, nothing of it was left; the first copy came out of the network later and the BMC obeyed it."""
    assert (await supervisor.fire(bmc.device(), "on", "fs1b", "s1", None)).exit_code == 0
    until(bmc.node_runs, "the node runs")
    relay = Relay(bmc.port, session=1)  # the agent asks for the power first, then switches off
    try:
        off = await supervisor.fire(bmc.device(ipport=str(relay.port), shell_timeout="20"), "off", "fs1b", "s2", None)
        assert (off.exit_code, off.clean, len(relay.kept)) == (0, True, 1), off.output
        until(lambda: not bmc.node_runs(), "the node is dead")
        assert (await supervisor.fire(bmc.device(), "on", "fs1b", "s3", None)).exit_code == 0
        until(bmc.node_runs, "the node runs again")
        relay.deliver()
        until(lambda: not bmc.node_runs(), "the late copy has switched the node off")
    finally:
        relay.close()
    assert one_stream("fence_ipmilan") is False


@pytest.mark.asyncio
async def test_no_login_is_unknown(bmc: Bmc, supervisor: Supervisor) -> None:
    """A device that refuses the login, or does not answer in time, says nothing about power."""
    readback = Readback(supervisor, BootClock())
    assert await readback.status(bmc.device(password="wrong"), "fs1b", 30.0) == Power.UNKNOWN
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        silent = bmc.device(ipport=str(deaf.getsockname()[1]))
        assert await readback.status(silent, "fs1b", 1.0) == Power.UNKNOWN


@pytest.mark.parametrize(
    ("code", "said", "power"),
    [
        (0, "Status: ON\n", Power.ON),
        (0, "", Power.ON),
        (0, "Status: OFF\n", Power.UNKNOWN),
        (2, "Status: OFF\n", Power.OFF),
        (2, "chassis power is off", Power.OFF),
        (2, "", Power.UNKNOWN),
        (2, "Status: ON, not off", Power.UNKNOWN),
        (2, "offline agent\n", Power.UNKNOWN),
        (1, "Status: OFF\n", Power.UNKNOWN),
        (126, "", Power.UNKNOWN),
        (None, "Status: OFF\n", Power.UNKNOWN),
    ],
)
def test_meaning(code: int | None, said: str, power: Power) -> None:
    """OFF needs exit code 2 and the word; ON must not be contradicted; anything else is UNKNOWN."""
    assert meaning(code, said) == power


@pytest.mark.asyncio
async def test_broken_agent_is_not_off(supervisor: Supervisor, delegate: Writer) -> None:
    """A Python that cannot find its script exits with 2, just as an agent whose node is off."""
    device = delegate("exec python3 /nowhere/at/all")
    assert (await supervisor.fire(device, "status", "fs1b", "s1", None)).exit_code == 2
    assert await Readback(supervisor, BootClock()).status(device, "fs1b", 30.0) == Power.UNKNOWN
    missing = DeviceSettings("fence_of_nowhere", {}, None)
    assert await Readback(supervisor, BootClock()).status(missing, "fs1b", 30.0) == Power.UNKNOWN
