"""The cluster's own files for a pair: corosync.conf and a finished cib.xml; nothing is configured after the start."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.sax.saxutils import quoteattr

from tests.lab.fabric import address
from tests.lab.space import run


@dataclass(frozen=True, slots=True)
class Timers:
    """The cluster's timers. Defaults are the recorded baselines': token 1 s, Pacemaker's own stonith-timeout, 60 s."""

    token_ms: int = 1000
    stonith_timeout_s: int = 60
    power_timeout_s: int = 20
    retry_s: float = 0.5
    dc_deadtime_s: int = 2


@dataclass(frozen=True, slots=True)
class Fence:
    """The fence resource for one target: the agent and its parameters, `pcmk_off_timeout` and the like among them."""

    agent: str
    params: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Resource:
    """The promotable resource. `provider_type`: `pglab:stateful` or `pglab:drbd`."""

    provider_type: str
    params: Mapping[str, str]
    meta: Mapping[str, str] = field(default_factory=dict)


TWO_NODE = "    provider: corosync_votequorum\n    two_node: 1\n"


def corosync_conf(pair: str, nodes: tuple[str, str], timers: Timers, *, rings: int = 1, quorum: str = TWO_NODE) -> str:
    """Two nodes on knet; `rings` 2 adds the out-of-band net as a second link. `quorum`: the body of that section."""
    entries = []
    for number, node in enumerate(nodes, 1):
        lines = [f"        ring0_addr: {address(node)}"]
        if rings == 2:
            lines.append(f"        ring1_addr: {address(node, out_of_band=True)}")
        entries.append(
            "    node {\n" + "\n".join(lines) + f"\n        name: {node}\n        nodeid: {number}\n    }}\n"
        )
    return (
        f"totem {{\n    version: 2\n    cluster_name: {pair}\n    transport: knet\n"
        f"    crypto_cipher: none\n    crypto_hash: none\n"
        f"    token: {timers.token_ms}\n}}\n"
        f"quorum {{\n{quorum}}}\n"
        "nodelist {\n" + "".join(entries) + "}\n"
        "logging {\n    to_stderr: no\n    to_syslog: no\n    to_logfile: yes\n"
        "    logfile: /var/log/corosync/corosync.log\n"
        "    timestamp: hires\n}\n"
    )


def cib(
    nodes: tuple[str, str],
    timers: Timers,
    resource: Resource,
    fences: Mapping[str, Fence],
    *,
    properties: Mapping[str, str] | None = None,
    prefer: str | None = None,
    priority: int = 0,
) -> str:
    """The whole configuration. `fences`: by target. `prefer`: a node for a weak location rule of the promoted role.

    `priority` of the service, for priority-fencing-delay.
    """
    settings = {
        "have-watchdog": "false",
        "cluster-infrastructure": "corosync",
        "stonith-enabled": "true",
        "stonith-action": "off",
        "stonith-timeout": f"{timers.stonith_timeout_s}s",
        "dc-deadtime": f"{timers.dc_deadtime_s}s",
        "no-quorum-policy": "stop",
        **(properties or {}),
    }
    devices = "".join(_fence(target, fence) for target, fence in fences.items())
    apart = "".join(f'<rsc_location id="l-fence-{t}" rsc="fence-{t}" node="{t}" score="-INFINITY"/>' for t in fences)
    members = "".join(f'<node id="{n}" uname="{name}"/>' for n, name in enumerate(nodes, 1))
    weight = f'<meta_attributes id="srv-meta">{_pairs("srv-m", {"priority": str(priority)})}</meta_attributes>'
    preferred = ""
    if prefer is not None:
        preferred = f'<rsc_location id="l-prefer" rsc="ms-r0" role="Promoted" node="{prefer}" score="10"/>'
    return (
        f'<cib {_schema()} admin_epoch="1" epoch="1" num_updates="0"><configuration>'
        f'<crm_config><cluster_property_set id="cib-bootstrap-options">{_pairs("p", settings)}'
        "</cluster_property_set></crm_config>"
        f"<nodes>{members}</nodes><resources>{_promotable(resource)}"
        f'<primitive id="srv" class="ocf" provider="pglab" type="srv">{weight if priority else ""}<operations>'
        '<op id="srv-monitor" name="monitor" interval="10s" timeout="20s"/></operations></primitive>'
        f"{devices}</resources><constraints>"
        '<rsc_colocation id="c-srv" rsc="srv" with-rsc="ms-r0" with-rsc-role="Promoted" score="INFINITY"/>'
        '<rsc_order id="o-srv" first="ms-r0" first-action="promote" then="srv" then-action="start"/>'
        f"{apart}{preferred}</constraints>"
        '<rsc_defaults><meta_attributes id="defaults">'
        '<nvpair id="defaults-stick" name="resource-stickiness" value="100"/>'
        "</meta_attributes></rsc_defaults></configuration><status/></cib>\n"
    )


def _promotable(resource: Resource) -> str:
    meta = {"promotable": "true", "notify": "true", "clone-max": "2", "promoted-max": "1", **resource.meta}
    provider, kind = resource.provider_type.split(":")
    return (
        f'<clone id="ms-r0"><meta_attributes id="ms-r0-meta">{_pairs("ms-r0-m", meta)}</meta_attributes>'
        f'<primitive id="r0" class="ocf" provider="{provider}" type="{kind}">'
        f'<instance_attributes id="r0-params">{_pairs("r0-p", resource.params)}</instance_attributes><operations>'
        '<op id="r0-mon-u" name="monitor" interval="10s" timeout="20s" role="Unpromoted"/>'
        '<op id="r0-mon-p" name="monitor" interval="9s" timeout="20s" role="Promoted"/>'
        '<op id="r0-promote" name="promote" interval="0s" timeout="90s"/>'
        '<op id="r0-start" name="start" interval="0s" timeout="60s"/>'
        '<op id="r0-stop" name="stop" interval="0s" timeout="60s"/>'
        "</operations></primitive></clone>"
    )


def _fence(target: str, fence: Fence) -> str:
    params = {"pcmk_host_list": target, **fence.params}
    return (
        f'<primitive id="fence-{target}" class="stonith" type="{fence.agent}">'
        f'<instance_attributes id="fence-{target}-params">{_pairs(f"fence-{target}", params)}'
        "</instance_attributes></primitive>"
    )


def _pairs(prefix: str, values: Mapping[str, str]) -> str:
    return "".join(
        f"<nvpair id={quoteattr(f'{prefix}-{name}')} name={quoteattr(name)} value={quoteattr(value)}/>"
        for name, value in values.items()
    )


def _schema() -> str:
    """The installed Pacemaker's own schema and feature set: a newer one makes its controller exit in a loop."""
    empty = run(["cibadmin", "--empty"]).stdout
    return " ".join(re.findall(r'(?:crm_feature_set|validate-with)="[^"]+"', empty))
