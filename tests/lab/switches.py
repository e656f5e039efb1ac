"""The management agents of the switches: one snmpd each, and one switchd that feeds it live state and sends traps."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.fabric import AGGREGATION, SWITCHES, address
from tests.lab.record import Record
from tests.lab.space import SYSTEM_PYTHON, LabFailed, Space, reap

HERE = Path(__file__).resolve().parent
COMMUNITY = "pglab"
USER, AUTH_PASSWORD, PRIVACY_PASSWORD = "pglab", "pglab-auth-password", "pglab-privacy-password"
# Served by switchd from live state (net-snmp's own interface table is up to 3 s stale, measured).
SERVED = (
    ".1.3.6.1.2.1.17",  # BRIDGE-MIB
    ".1.3.6.1.2.1.2.2.1.8",  # IF-MIB ifOperStatus
    ".1.2.840.10006.300.43",  # IEEE8023-LAG-MIB (modelled: no LACP in this kernel)
    ".1.3.6.1.4.1.8072.9999.9999.1",  # NET-SNMP-MIB netSnmpPlaypen: the lab's MLAG model
)


@dataclass(slots=True)
class _Agent:
    snmpd: subprocess.Popen[bytes]
    switchd: subprocess.Popen[bytes]


@dataclass
class Switches:
    """Agents of every switch. `trap_receivers`: `address:port`, reached in-band or out-of-band as addressed."""

    space: Space
    record: Record
    trap_receivers: Sequence[str] = ()
    _agents: dict[str, _Agent] = field(default_factory=dict)

    def start(self, names: Sequence[str] = SWITCHES) -> None:
        """Start the agents of these switches."""
        for name in names:
            self._agents[name] = self._start_one(name)

    def _start_one(self, name: str) -> _Agent:
        place = self.space.work / "switches" / name
        (place / "state").mkdir(parents=True, exist_ok=True)
        socket = place / "switchd.sock"
        argv = [SYSTEM_PYTHON, "-IS", str(HERE / "programs" / "switchd"), name, str(socket)]
        if name in AGGREGATION:
            other = AGGREGATION[1 - AGGREGATION.index(name)]
            argv += ["--peer", address(other), "--peer-link", other]
        else:
            argv += ["--lag", ",".join(AGGREGATION)]
        for receiver in self.trap_receivers:
            argv += ["--trap", receiver]
        switchd = self.space.spawn(
            argv,
            group=f"switch-{name}",
            netns=name,
            log=place / "switchd.log",
            env={"SNMP_PERSISTENT_DIR": str(place / "traps"), "MIBS": ""},
        )
        feed = shlex.join(["/usr/bin/socat", "-", f"UNIX-CONNECT:{socket},retry=50,interval=0.1"])
        lines = [
            "agentAddress udp:161",
            f"sysName {name}",
            "sysDescr pairguard lab switch (Linux bridge)",
            f"rocommunity {COMMUNITY}",
            f"createUser {USER} SHA {AUTH_PASSWORD} AES {PRIVACY_PASSWORD}",
            f"rouser {USER} authPriv",
            *(f"pass_persist -p 50 {oid} {feed}" for oid in SERVED),
        ]
        (place / "snmpd.conf").write_text("\n".join(lines) + "\n")
        snmpd = self.space.spawn(
            [
                "snmpd",
                "-f",
                "-C",
                "-c",
                str(place / "snmpd.conf"),
                "-Lf",
                str(place / "snmpd.log"),
                "-p",
                str(place / "snmpd.pid"),
            ],
            group=f"switch-{name}",
            netns=name,
            log=place / "snmpd.out",
            env={"SNMP_PERSISTENT_DIR": str(place / "state"), "MIBS": ""},
        )
        return _Agent(snmpd, switchd)

    def stop_agent(self, name: str) -> None:
        """SIGSTOP snmpd and switchd of one switch: the management plane hangs, the bridge goes on."""
        for process in self._both(name):
            os.kill(process.pid, signal.SIGSTOP)
        self.record.add("agent-stopped", name)

    def resume_agent(self, name: str) -> None:
        """SIGCONT after `stop_agent`."""
        for process in self._both(name):
            os.kill(process.pid, signal.SIGCONT)
        self.record.add("agent-resumed", name)

    def restart_agent(self, name: str) -> None:
        """End and start the agents of one switch: sysUpTime falls, engine boots rise, counters begin at zero."""
        both = self._both(name)
        for process in both:
            process.terminate()  # snmpd keeps its engine boots when it ends in order
            reap(process)
        self.space.kill(f"switch-{name}")
        (self.space.work / "switches" / name / "switchd.sock").unlink(missing_ok=True)
        self._agents[name] = self._start_one(name)
        self.record.add("agent-restarted", name)

    def _both(self, name: str) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]:
        agent = self._agents.get(name)
        if agent is None:
            raise LabFailed(f"{name} has no agents: start the lab with snmp on")
        return agent.snmpd, agent.switchd
