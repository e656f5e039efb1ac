"""A real two-node corosync + Pacemaker cluster in namespaces of its own, for tests that must not believe a simulation.

Each node is PID 1 of a private pid namespace with its own network, mounts, host name and /run; a bridge in a third
network namespace is the switch. Nothing of the host is touched: no systemd, no file outside the given folder.
Power-off is SIGKILL of that PID 1; the kernel then ends everything in it.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

NODES = ("fs1a", "fs1b")
PROGRAMS = (
    "corosync",
    "pacemakerd",
    "cibadmin",
    "crm_mon",
    "crm_simulate",
    "stonith_admin",
    "ip",
    "nsenter",
    "unshare",
)
FORM_S_MAX = 180.0  # 6 s alone; tens of seconds beside other work on two cores

_INIT = """#!/bin/bash
# PID 1 of one node: NAME NODEDIR LABDIR
name=$1 dir=$2 lab=$3
mount --make-rprivate /
hostname "$name"
mount -t proc proc /proc
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir -p /run/crm /run/pacemaker /run/corosync-qdevice /run/resource-agents
chown hacluster:haclient /run/crm /run/pacemaker
mount --bind "$dir/etc" /etc/corosync
mount --bind "$dir/corosync" /var/lib/corosync
mount --bind "$dir/pacemaker" /var/lib/pacemaker
mount --bind "$dir/log" /var/log
mount -t overlay overlay -o "lowerdir=$lab/sbin:/usr/sbin" /usr/sbin
ip link set lo up
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
cd /
corosync -f >/var/log/corosync.out 2>&1 &
for _ in $(seq 600); do
  corosync-cmapctl -g runtime.votequorum.this_node_id >/dev/null 2>&1 && break
  sleep 0.1
done
pacemakerd >/var/log/pacemakerd.out 2>&1 &
while true; do wait -n || sleep 0.2; done
"""

_AGENT = """#!/bin/sh
# A fence device that never succeeds and writes down that it was asked.
action=monitor
target=
while IFS= read -r line; do
  case $line in
    action=*) action=${line#action=} ;;
    port=*|nodename=*) target=${line#*=} ;;
  esac
done
case $action in
  metadata)
    cat <<'XML'
<?xml version="1.0" ?>
<resource-agent name="fence_lab" shortdesc="test device"><longdesc>test device</longdesc><vendor-url></vendor-url>
<parameters>
<parameter name="action" required="1"><content type="string" default="off"/><shortdesc>what</shortdesc></parameter>
<parameter name="port" required="0"><content type="string"/><shortdesc>whom</shortdesc></parameter>
</parameters>
<actions><action name="on"/><action name="off"/><action name="reboot"/><action name="status"/><action name="list"/>
<action name="monitor"/><action name="metadata"/></actions></resource-agent>
XML
    exit 0 ;;
  monitor|status|list) exit 0 ;;
  *) echo "$action $target" >> /var/log/shots; exit 1 ;;
esac
"""

_COROSYNC = """totem {{
  version: 2
  cluster_name: labpair
  transport: knet
  token: 1500
  crypto_cipher: none
  crypto_hash: none
}}
nodelist {{
  node {{
    ring0_addr: 10.99.0.1
    name: fs1a
    nodeid: 1
  }}
  node {{
    ring0_addr: 10.99.0.2
    name: fs1b
    nodeid: 2
  }}
}}
quorum {{
  provider: corosync_votequorum
  two_node: 1
}}
logging {{
  to_stderr: no
  to_syslog: no
  to_logfile: yes
  logfile: /var/log/corosync.log
}}
"""


def _device(node: str, other: str) -> str:
    return f"""
    <primitive id="dev-{node}" class="stonith" type="fence_lab">
      <instance_attributes id="dev-{node}-ia">
        <nvpair id="dev-{node}-hosts" name="pcmk_host_list" value="{node}"/>
        <nvpair id="dev-{node}-check" name="pcmk_host_check" value="static-list"/>
        <nvpair id="dev-{node}-delay" name="pcmk_delay_base" value="600s"/>
      </instance_attributes>
      <operations><op id="dev-{node}-mon" name="monitor" interval="3600s" timeout="60s"/></operations>
    </primitive>"""


CIB = f"""<cib crm_feature_set="3.0.14" validate-with="pacemaker-3.9" epoch="10" num_updates="0" admin_epoch="0">
<configuration>
  <crm_config>
    <cluster_property_set id="cib-bootstrap-options">
      <nvpair id="opt-stonith" name="stonith-enabled" value="true"/>
      <nvpair id="opt-dcdead" name="dc-deadtime" value="2s"/>
      <nvpair id="opt-nqp" name="no-quorum-policy" value="ignore"/>
      <nvpair id="opt-stimeout" name="stonith-timeout" value="900s"/>
    </cluster_property_set>
  </crm_config>
  <nodes><node id="1" uname="fs1a"/><node id="2" uname="fs1b"/></nodes>
  <resources>
    {_device("fs1a", "fs1b")}
    {_device("fs1b", "fs1a")}
    <primitive id="fs" class="ocf" provider="pacemaker" type="Dummy">
      <operations><op id="fs-mon" name="monitor" interval="3600s" timeout="60s"/></operations>
    </primitive>
    <clone id="disk-clone">
      <meta_attributes id="disk-clone-meta">
        <nvpair id="disk-clone-promotable" name="promotable" value="true"/>
        <nvpair id="disk-clone-notify" name="notify" value="false"/>
      </meta_attributes>
      <primitive id="disk" class="ocf" provider="pacemaker" type="Stateful">
        <operations>
          <op id="disk-mon-m" name="monitor" interval="3600s" timeout="60s" role="Promoted"/>
          <op id="disk-mon-s" name="monitor" interval="3601s" timeout="60s" role="Unpromoted"/>
        </operations>
      </primitive>
    </clone>
  </resources>
  <constraints>
    <rsc_location id="prefer-a" rsc="disk-clone" node="fs1a" role="Promoted" score="50"/>
    <rsc_colocation id="fs-with-disk" rsc="fs" with-rsc="disk-clone" with-rsc-role="Promoted" score="INFINITY"/>
  </constraints>
</configuration>
<status/>
</cib>
"""


def unusable() -> str | None:
    """Why such a pair cannot be brought up here; None = it can."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [p for p in PROGRAMS if shutil.which(p) is None]
    if missing:
        return f"programs missing: {', '.join(missing)}"
    tried = subprocess.run(["unshare", "-n", "-m", "-p", "-f", "-u", "-i", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else f"no namespaces: {tried.stderr.decode(errors='replace').strip()}"


@dataclass
class RealPair:
    """The pair. `up()` returns when both nodes are online; `down()` leaves nothing behind, however far `up()` came."""

    folder: Path
    pids: dict[str, int] = field(default_factory=dict)
    _shooters: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _nets: list[str] = field(default_factory=list)

    @property
    def tag(self) -> str:
        return f"pgl{os.getpid()}"

    def up(self) -> None:
        self._network()
        sbin = self.folder / "sbin"
        sbin.mkdir(parents=True)
        _program(sbin / "fence_lab", _AGENT)
        _program(self.folder / "init", _INIT)
        for node in NODES:
            self._start(node)
        self.wait(self.whole, FORM_S_MAX, "both nodes online and the services started")

    def prefix(self, node: str) -> list[str]:
        """Put before a command line to run it on that node."""
        return ["nsenter", "-t", str(self.pids[node]), "-m", "-u", "-i", "-n", "-p", "--"]

    def on(self, node: str, argv: Sequence[str], *, stdin: str | None = None, timeout_s: float = 60.0) -> str:
        """Output of a command on a node; raises CalledProcessError if it fails."""
        done = subprocess.run(
            [*self.prefix(node), *argv], input=stdin, capture_output=True, text=True, timeout=timeout_s, check=True
        )
        return done.stdout

    def tries(self, node: str, argv: Sequence[str], *, stdin: str | None = None) -> tuple[int, str]:
        done = subprocess.run(
            [*self.prefix(node), *argv], input=stdin, capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def whole(self) -> bool:
        for node in NODES:
            code, text = self.tries(node, ["crm_mon", "--output-as=xml", "-1"])
            if (
                code != 0
                or text.count('online="true"') < 2
                or 'role="Promoted"' not in text
                or 'pending="true"' in text
            ):
                return False
            if '<resource id="fs"' not in text or 'resource_agent="ocf:pacemaker:Dummy" role="Started"' not in text:
                return False
        return True

    def cut(self) -> None:
        """Detach node b's port from the bridge: links stay up, nothing passes."""
        self._ip("-n", self._ns("sw"), "link", "set", "hfs1b", "nomaster")

    def heal(self) -> None:
        self._ip("-n", self._ns("sw"), "link", "set", "hfs1b", "master", "br0")

    def request_shot(self, node: str, target: str) -> None:
        """Ask for a reboot of `target` on `node`; the device's delay keeps it pending. Ends with the pair at latest."""
        argv = [*self.prefix(node), "stonith_admin", "--reboot", target, "--timeout", "800"]
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._shooters.append(child)

    def withdraw_requests(self) -> None:
        """End the asking programs. What the fencer holds already is not touched by this."""
        for shooter in self._shooters:
            shooter.kill()
            shooter.wait(20)
        self._shooters.clear()

    def shots(self, node: str) -> list[str]:
        """What the fence agents on `node` were really asked to do."""
        log = self.folder / node / "log" / "shots"
        return log.read_text().splitlines() if log.exists() else []

    def wait(self, what: object, seconds: float, text: str) -> None:
        """Poll `what()` until true; TimeoutError says what was waited for."""
        if not callable(what):
            raise TypeError("wait for what?")
        end = time.monotonic() + seconds
        while not what():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {seconds:.0f} s for: {text}")
            time.sleep(0.3)

    def down(self) -> None:
        self.withdraw_requests()
        for pid in self.pids.values():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for child in self._children.values():
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(20)
        for net in reversed(self._nets):
            subprocess.run(["ip", "netns", "del", net], capture_output=True, check=False)
        self.pids.clear()
        self._children.clear()
        self._nets.clear()

    def _ns(self, name: str) -> str:
        return f"{self.tag}-{name}"

    @staticmethod
    def _ip(*argv: str) -> None:
        subprocess.run(["ip", *argv], check=True, capture_output=True)

    def _network(self) -> None:
        for name in ("sw", *NODES):
            self._ip("netns", "add", self._ns(name))
            self._nets.append(self._ns(name))
        switch = self._ns("sw")
        self._ip("-n", switch, "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0")
        self._ip("-n", switch, "link", "set", "br0", "up")
        for number, node in enumerate(NODES, 1):
            net = self._ns(node)
            self._ip("link", "add", "eth0", "netns", net, "type", "veth", "peer", "name", f"h{node}", "netns", switch)
            self._ip("-n", switch, "link", "set", f"h{node}", "master", "br0", "up")
            self._ip("-n", net, "addr", "add", f"10.99.0.{number}/24", "dev", "eth0")
            self._ip("-n", net, "link", "set", "eth0", "up")

    def _start(self, node: str) -> None:
        place = self.folder / node
        for part in ("etc", "corosync", "pacemaker", "log"):
            (place / part).mkdir(parents=True)
        (place / "etc" / "corosync.conf").write_text(_COROSYNC.format())
        (place / "log" / "pacemaker").mkdir()
        shutil.chown(place / "log" / "pacemaker", "hacluster", "haclient")
        for part in ("", "cib", "cores", "pengine", "blackbox"):
            (place / "pacemaker" / part).mkdir(exist_ok=True)
            shutil.chown(place / "pacemaker" / part, "hacluster", "haclient")
        cib = place / "pacemaker" / "cib" / "cib.xml"
        cib.write_text(CIB)
        cib.chmod(0o600)
        shutil.chown(cib, "hacluster", "haclient")
        net = f"--net=/run/netns/{self._ns(node)}"
        argv = ["nsenter", net, "unshare", "-p", "-f", "-m", "-u", "-i", "--propagation", "private"]
        with (place / "log" / "init.out").open("wb") as out:
            child = subprocess.Popen(
                [*argv, str(self.folder / "init"), node, str(place), str(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._children[node] = child
        inner = Path(f"/proc/{child.pid}/task/{child.pid}/children")
        self.wait(lambda: inner.read_text().split(), 20, f"PID 1 of {node}")
        self.pids[node] = int(inner.read_text().split()[0])


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
