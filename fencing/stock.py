"""What is known of stock fence agents: how long their packets can act after their death, and whether they still start.

Not every agent is here. What is not here is unbounded: it needs a name in the settings.
"""

from __future__ import annotations

import pwd
import shutil
import subprocess
from collections.abc import Mapping

from fencing.supervisor import LANG, PATH

RMCP_PLUS_S = 75.0  # DESIGN.md section 4, Shot 6: a session ends 60 s +- 3 s after its last packet (IPMI 2.0)
TCP_S = 120.0  # DESIGN.md section 4, Shot 6
SNMPV3_S = 180.0  # the time window of 150 s (RFC 3414, 2.2.3) and clock error; DESIGN.md section 4, Shot 6
CONTROLLER = "hacluster"  # the user of Pacemaker's controller (its systemd unit and packages)
START_S_MAX = 20.0  # an agent prints its metadata in 0.3 s; the machine may be loaded

LANPLUS_DEFAULT = {  # agents of fence_ipmilan, with their default of `lanplus` (their metadata, fence-agents 4.12)
    "fence_ipmilan": False,
    "fence_idrac": False,
    "fence_imm": False,
    "fence_ilo3": True,
    "fence_ilo4": True,
    "fence_ilo5": True,
    "fence_ipmilanplus": True,
}
TCP = frozenset(
    [
        "fence_alom",
        "fence_apc",
        "fence_bladecenter",
        "fence_brocade",
        "fence_cdu",
        "fence_cisco_ucs",
        "fence_cyberpower_ssh",
        "fence_drac",
        "fence_drac5",
        "fence_eps",
        "fence_hpblade",
        "fence_ilo",
        "fence_ilo2",
        "fence_ilo3_ssh",
        "fence_ilo4_ssh",
        "fence_ilo5_ssh",
        "fence_ilo_moonshot",
        "fence_ilo_mp",
        "fence_ilo_ssh",
        "fence_ldom",
        "fence_lpar",
        "fence_netio",
        "fence_pve",
        "fence_raritan",
        "fence_raritan_px3",
        "fence_redfish",
        "fence_rhevm",
        "fence_rsa",
        "fence_rsb",
        "fence_sanbox2",
        "fence_skalar",
        "fence_vbox",
        "fence_virsh",
        "fence_vmware_rest",
        "fence_vmware_soap",
        "fence_wti",
        "fence_zvmip",
    ]  # ssh, telnet or https: see `one_stream`
)
SNMP = frozenset(  # agents that use fence-agents' own fencing_snmp
    [
        "fence_apc_snmp",
        "fence_cisco_mds",
        "fence_eaton_snmp",
        "fence_emerson",
        "fence_ibmblade",
        "fence_ifmib",
        "fence_intelmodular",
        "fence_ipdu",
        "fence_lindypdu",
        "fence_tripplite_snmp",
    ]
)
YES = frozenset({"1", "yes", "on", "true"})  # words that fence-agents reads as true


def one_stream(agent: str) -> bool:
    """Does the agent speak to its device by TCP, and send no command before the last was answered?

    Then no copy of a command is left once the agent has seen its effect and has ended with no socket left. That need
    not be one connection: redfish, cisco_ucs, pve, rhevm, vmware_rest, skalar and eps open one a request, each
    answered before the next, and a connection that was given up with something unsent is an orphan, which makes the
    end not clean (`sockdiag`). It does not hold for a connection of another process: an ssh ControlMaster, if the
    system's ssh_config sets one, lives outside the agent's group. Nor for what the device itself queues: a manager
    (fence_lpar's HMC, fence_pve, a vCenter) may carry out later what it has accepted, although the agent saw `off`.

    What sends datagrams repeats them: the first copy may still be in a frozen network when a later one was answered.
    ipmitool repeats a command after 1 s under a new sequence number and ends well even if its Close Session was lost,
    and a BMC takes an older number that it has not seen (IPMI 2.0, 6.12.13); SNMP agents repeat after 1 s as well.
    """
    return agent in TCP


def horizon_s(agent: str, options: Mapping[str, str]) -> float | None:
    """H(device): seconds after the agent's death in which its packets may still act; None = no bound is known.

    None for SNMPv1/2c and unauthenticated v3 (a datagram is valid for ever), for IPMI 1.5 (`lanplus` off) and for
    every agent not listed here: the device then counts only if the settings accept it by name.
    """
    given = {name.replace("-", "_"): value.strip() for name, value in options.items()}
    if agent in LANPLUS_DEFAULT:
        lanplus = given["lanplus"].lower() in YES if "lanplus" in given else LANPLUS_DEFAULT[agent]
        return RMCP_PLUS_S if lanplus else None
    if agent in TCP:
        return TCP_S
    if agent in SNMP:
        authenticated = given.get("snmp_sec_level", "").lower() in ("authnopriv", "authpriv")
        return SNMPV3_S if given.get("snmp_version") == "3" and authenticated else None
    return None


def clash(agent: str = "fence_ipmilan", *, user: str | None = None) -> str | None:
    """None if the agent starts in the environment that we give it; else what it said instead.

    Our package has the name of the library that stock agents import; found in its stead, every agent dies.
    `user`: started as that user (only root can): Pacemaker's controller, no root, asks each agent for its metadata.
    """
    program = shutil.which(agent, path=PATH)
    if program is None:
        return f"{agent} is not installed"
    environment = {"PATH": PATH, "LANG": LANG}
    try:
        ran = subprocess.run(
            [program, "-o", "metadata"],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=START_S_MAX,
            check=False,
            user=user,
            group=None if user is None else pwd.getpwnam(user).pw_gid,
            extra_groups=None if user is None else (),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{agent} does not start: {error}"
    except KeyError:
        return None  # this machine has no such user
    if ran.returncode == 0 and b"<resource-agent" in ran.stdout:
        return None
    lines = ran.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {ran.returncode}"]
    return f"{agent} does not start: {lines[-1]}"
