"""What Pacemaker's programs say, as values, and our few edits of a copy of its configuration. Pure: text in, text out.

1. A missing field is None or UNKNOWN, a word we do not know is `Unreadable`: nothing here has a believable default.
2. Every edit touches only elements whose id starts with "pairguard-". The one exception, an explicit
   `maintenance-mode=false` among the bootstrap options, is said aloud in `Edit.removed_default`.
3. An empty answer of the scheduler proves nothing: `forecast` believes it only if both the nodes and the injected
   loss are in it (crm_simulate answers 0 and "no actions" to an empty configuration, seen with 2.1.5).

Words are those of Pacemaker 2.1.5 (captures in tests/captures/pacemaker) plus the renames of 2.1.7 and 3.0.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from guard.core.evidence import Forecast, PendingShot, Up
from guard.errors import Unreadable

HOLD_SET = "pairguard-hold"
HOLD_MODE = "pairguard-hold-maintenance-mode"
HOLD_ID = "pairguard-hold-id"
HOLD_SCORE = "1000"  # above sets without a score; the bootstrap options are always read before any score
BOOTSTRAP_SET = "cib-bootstrap-options"
PURGE_PREFIX = "pairguard-purge-"
BAR_PREFIX = "pairguard-bar-"
ANY_HOLD = "*"

TRUE_WORDS = frozenset({"true", "on", "yes", "y", "1"})  # crm_str_to_boolean
FALSE_WORDS = frozenset({"false", "off", "no", "n", "0"})
PROMOTED = frozenset({"Promoted", "Master"})  # 2.1 and later, before
ROLES = frozenset({"Unknown", "Stopped", "Started", "Unpromoted", "Slave"}) | PROMOTED
SHOT_STATES = frozenset({"pending", "success", "failed"})
ACTION_TAGS = frozenset({"node_action", "rsc_action"})  # crm_simulate-2.41.rng
TRANSITION_TAGS = frozenset({"cluster_action", "fencing_action", "pseudo_action", "rsc_action"})
HARMLESS_ACTIONS = frozenset({"start", "promote", "reload"})
STOPPING_ACTIONS = frozenset({"stop", "demote", "move", "migrate", "recover", "restart", "re-promote"})
_NUMBER = re.compile(r"[0-9]{1,20}")  # `str.isdecimal` also takes other scripts, and any length
PROMOTED_SCHEMA = (3, 7)  # first pacemaker-X.Y schema that knows role="Promoted" (constraints-3.7.rng)


@dataclass(frozen=True, slots=True)
class Monitor:
    """What one `crm_mon --output-as=xml` says. None = not said."""

    maintenance: bool | None
    fencing: bool | None  # stonith-enabled, fencing-enabled from 3.0.2
    online: dict[str, Up]
    unclean: frozenset[str]
    managed: int | None
    promoted: dict[str, frozenset[str]]  # clone id -> nodes where an instance is promoted; every clone is a key
    failed_stops: tuple[tuple[str, str], ...]  # (resource, node)


@dataclass(frozen=True, slots=True)
class Edit:
    """Outcome of one edit of a copy. `allowed` False: the precondition is not met, nothing may be written."""

    changed: bool
    allowed: bool = True
    removed_default: bool = False


# ---------------------------------------------------------------- reading


def document(text: str, what: str) -> ET.Element:
    """The root element. Comments are kept, so that a copy that is written back loses nothing."""
    parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))  # noqa: S314 - see the import
    try:
        return ET.fromstring(text, parser)  # noqa: S314
    except ET.ParseError as error:
        raise Unreadable(f"cannot read {what}", str(error)) from error


def monitor(text: str) -> Monitor:
    """Parse `crm_mon --output-as=xml -1`."""
    root = document(text, "crm_mon")
    _succeeded(root, "crm_mon")
    options = root.find("summary/cluster_options")
    fencing = None
    if options is not None:
        fencing = _flag(options, "fencing-enabled" if "fencing-enabled" in options.attrib else "stonith-enabled")
    nodes = root.findall("nodes/node")
    resources = root.find("resources")
    return Monitor(
        maintenance=None if options is None else _flag(options, "maintenance-mode"),
        fencing=fencing,
        online={_text(node, "name"): _online(node) for node in nodes},
        unclean=frozenset(_text(node, "name") for node in nodes if _flag(node, "unclean") is not False),
        managed=None if resources is None else _managed(resources),
        promoted={} if resources is None else _promoted(resources),
        failed_stops=tuple(_failed_stops(root)),
    )


def controllers(cib: ET.Element) -> dict[str, Up]:
    """The controller on each node as the status section has it: `online`/`offline`, a time stamp since 2.1.7."""
    return {_text(state, "uname"): _crmd(state) for state in cib.iterfind("status/node_state")}


def our_hold(cib: ET.Element) -> str | None:
    """The hold id beside our own property; None = our set is absent. "" = our set without an id."""
    ours = _ours(cib)
    if ours is None:
        return None
    return next((pair.get("value", "") for pair in ours.iterfind("nvpair") if pair.get("name") == HOLD_ID), "")


def persons_maintenance(cib: ET.Element, *, effective: bool | None) -> bool:
    """True if a set that is not ours says maintenance. One under a rule counts unless the mode is surely off."""
    for properties in cib.iterfind("configuration/crm_config/cluster_property_set"):
        if properties.get("id") == HOLD_SET:
            continue
        said = any(_word(pair) for pair in properties.iterfind("nvpair") if pair.get("name") == "maintenance-mode")
        ruled = properties.find("rule") is not None
        if said and not (ruled and effective is False):
            return True
    return False


def fenced_stop(cib: ET.Element, resource: str, *, fencing: bool | None) -> bool:
    """True only if a failed stop of `resource` surely means fencing: `on-fail` says so, or its default does.

    The default of a stop is "fence" while fencing is enabled, else "block" (Pacemaker Explained, operations).
    """
    for element in cib.iterfind("configuration/resources//primitive"):
        if element.get("id") != resource.split(":")[0]:
            continue
        for operation in element.iterfind("operations/op"):
            if operation.get("name") == "stop":
                nested = {p.get("name"): p.get("value") for p in operation.iterfind("*/nvpair")}
                word = operation.get("on-fail") or nested.get("on-fail")
                if word is not None:
                    return word == "fence"
        defaults = cib.findall("configuration/op_defaults//nvpair[@name='on-fail']")
        return not defaults and fencing is True
    return False


def shots(text: str) -> tuple[PendingShot, ...]:
    """Every fence operation in `stonith_admin --history '*' --verbose --output-as=xml` that is not over."""
    root = document(text, "stonith_admin --history")
    _succeeded(root, "stonith_admin --history")
    _whole_lists(root, "fence_event")
    found = []
    for event in root.iter("fence_event"):
        state = _text(event, "status")
        if state not in SHOT_STATES:
            raise Unreadable("cannot read the fencing history", f"unknown status {state!r}")
        if state == "pending":
            words = {key: event.get(key, "?") for key in ("target", "action", "client", "origin")}
            found.append(PendingShot(state=state, **words))
    return tuple(found)


def devices(text: str) -> frozenset[str]:
    """Ids in `stonith_admin --list NODE --output-as=xml`: registered devices that can fence that node."""
    root = document(text, "stonith_admin --list")
    _succeeded(root, "stonith_admin --list")
    return frozenset((item.text or "").strip() for item in root.iterfind("list/item")) - {""}


def forecast(text: str, *, known: Collection[str], lost: str | None, fence_devices: Collection[str]) -> Forecast:
    """Parse `crm_simulate -S --output-as=xml`. `known`: nodes that must appear, or the answer proves nothing.

    A fence device that only moves stops no service and is left out.
    """
    root = document(text, "crm_simulate")
    _succeeded(root, "crm_simulate")
    seen = {node.get("name") for node in root.iterfind("cluster_status/nodes/node")}
    if not set(known) <= seen:
        return Forecast(error=f"the scheduler does not know {', '.join(sorted(set(known) - seen))}")
    for modifications in root.iterfind("modifications"):
        _only(modifications, {"modify_node"})
    injected = [(n.get("action"), n.get("node")) for n in root.iterfind("modifications/modify_node")]
    if injected != ([] if lost is None else [("Failing", lost)]):
        return Forecast(error=f"the scheduler was told to lose {injected}, not {lost}")
    actions, transition = root.find("actions"), root.find("transition")
    if actions is None or transition is None:
        return Forecast(error="the scheduler gave no list of actions")
    _only(actions, ACTION_TAGS)
    _only(transition, TRANSITION_TAGS)
    fences = {_text(action, "target") for action in transition.iterfind("fencing_action")}
    for action in actions.iterfind("node_action"):
        task = _text(action, "task")
        if task.startswith("Fence"):
            fences.add(_text(action, "node"))
        elif task != "Shutdown":
            raise Unreadable("cannot read crm_simulate", f"unknown node action {task!r}")
    return Forecast(frozenset(fences), tuple(_stops(actions, fence_devices)))


def node_names(cib: ET.Element) -> frozenset[str]:
    """Names of all configured nodes."""
    return frozenset(_text(node, "uname") for node in cib.iterfind("configuration/nodes/node"))


def fence_devices(cib: ET.Element) -> frozenset[str]:
    """Ids of all fence devices in the configuration."""
    found = cib.iterfind("configuration/resources//primitive")
    return frozenset(_text(element, "id") for element in found if element.get("class") == "stonith")


def purge_marks(cib: ET.Element) -> tuple[str, ...]:
    """Fence devices that we have stopped and not yet given back."""
    found = cib.iterfind("configuration/resources//primitive")
    return tuple(_text(device, "id") for device in found if _our_mark(device) is not None)


# ---------------------------------------------------------------- editing a copy


def put_hold(cib: ET.Element, hold_id: str) -> Edit:
    """Our own property set with the mode and the hold id; an explicit default that would win over it goes."""
    config = _section(cib, "crm_config")
    removed = _drop_default(config)
    ours = _ours(cib)
    if ours is not None and our_hold(cib) == hold_id and _says_hold(ours):
        return Edit(removed, removed_default=removed)
    if ours is not None:
        config.remove(ours)
    ours = ET.SubElement(config, "cluster_property_set", {"id": HOLD_SET, "score": HOLD_SCORE})
    ET.SubElement(ours, "nvpair", {"id": HOLD_MODE, "name": "maintenance-mode", "value": "true"})
    ET.SubElement(ours, "nvpair", {"id": HOLD_ID, "name": HOLD_ID, "value": hold_id})
    return Edit(True, removed_default=removed)


def take_hold(cib: ET.Element, hold_id: str) -> Edit:
    """Remove our property set if it carries `hold_id` (ANY_HOLD: whichever it carries)."""
    ours = _ours(cib)
    if ours is None:
        return Edit(False)
    if hold_id not in (ANY_HOLD, our_hold(cib)):
        return Edit(False, allowed=False)
    _section(cib, "crm_config").remove(ours)
    return Edit(True)


def mark_purge(cib: ET.Element, wanted: Collection[str]) -> Edit:
    """Stop the fence devices `wanted` by a meta attribute set of ours. Allowed only under our own hold."""
    ours = _ours(cib)
    if ours is None or not _says_hold(ours) or not wanted:
        return Edit(False, allowed=False)
    changed = False
    for device in cib.iterfind("configuration/resources//primitive"):
        name = _text(device, "id")
        if device.get("class") != "stonith" or name not in wanted or _our_mark(device) is not None:
            continue
        mark = ET.SubElement(device, "meta_attributes", {"id": PURGE_PREFIX + name, "score": "INFINITY"})
        ET.SubElement(mark, "nvpair", {"id": f"{PURGE_PREFIX}{name}-role", "name": "target-role", "value": "Stopped"})
        changed = True
    return Edit(changed)


def unmark_purge(cib: ET.Element) -> Edit:
    """Take every purge mark of ours away again."""
    changed = False
    for device in cib.iterfind("configuration/resources//primitive"):
        mark = _our_mark(device)
        if mark is not None:
            device.remove(mark)
            changed = True
    return Edit(changed)


def put_bar(cib: ET.Element, node: str, clones: Sequence[str]) -> Edit:
    """Our constraint: no instance of `clones` promoted on `node`. Not allowed for a clone that is not configured."""
    configured = {element.get("id") for element in cib.iterfind("configuration/resources//*")}
    if not clones or not set(clones) <= configured:
        return Edit(False, allowed=False)
    constraints, role = _section(cib, "constraints"), promoted_word(cib)
    have = {(bar.get("rsc"), bar.get("score"), bar.get("role")) for bar in _bars(constraints, node)}
    if have == {(clone, "-INFINITY", role) for clone in clones}:
        return Edit(False)
    take_bar(cib, node)
    for clone in clones:
        name = BAR_PREFIX + node + ("" if len(clones) == 1 else f".{clone}")
        words = {"id": name, "rsc": clone, "node": node, "role": role, "score": "-INFINITY"}
        ET.SubElement(constraints, "rsc_location", words)
    return Edit(True)


def take_bar(cib: ET.Element, node: str) -> Edit:
    """Remove our constraint against `node`."""
    constraints = _section(cib, "constraints")
    bars = _bars(constraints, node)
    for bar in bars:
        constraints.remove(bar)
    return Edit(bool(bars))


def promoted_word(cib: ET.Element) -> str:
    """The role's name that the configuration's own schema accepts; without a schema the old one, which all accept."""
    named = re.fullmatch(r"pacemaker-([0-9]{1,4})\.([0-9]{1,4})", cib.get("validate-with", ""))
    if named is not None and (int(named[1]), int(named[2])) >= PROMOTED_SCHEMA:
        return "Promoted"
    return "Master"


def next_epoch(cib: ET.Element) -> None:
    """The version that makes a patch out of the copy: one epoch more, no updates."""
    try:
        cib.set("epoch", str(int(cib.get("epoch", "")) + 1))
    except ValueError as error:
        raise Unreadable("cannot read the cluster's configuration", f"epoch {cib.get('epoch')!r}") from error
    cib.set("num_updates", "0")


def dump(root: ET.Element) -> str:
    try:
        return ET.tostring(root, encoding="unicode")
    except RecursionError as error:
        raise Unreadable("cannot write the cluster's configuration", "it is nested too deeply") from error


# ---------------------------------------------------------------- private


def _succeeded(root: ET.Element, what: str) -> None:
    status = root.find("status")
    if root.tag not in ("pacemaker-result", "crm_mon") or status is None or status.get("code") != "0":
        said = "no status" if status is None else status.get("message", status.get("code", "?"))
        raise Unreadable(f"cannot read {what}", said)


def _only(parent: ET.Element, known: Collection[str]) -> None:
    """Raises for a child of another kind: an action that we do not know is not no action."""
    for child in parent:
        if isinstance(child.tag, str) and child.tag not in known:
            raise Unreadable(f"cannot read {parent.tag}", f"unknown element {child.tag}")


def _whole_lists(root: ET.Element, tag: str) -> None:
    """Raises for a list with other elements than `tag`, or with fewer than it says itself."""
    for listed in root.iter("list"):
        _only(listed, {tag})
        told, has = listed.get("count"), len(listed.findall(tag))
        if told not in (None, str(has)):
            raise Unreadable("cannot read the fencing history", f"it says {told!r} events, and has {has}")


def _text(element: ET.Element, key: str) -> str:
    value = element.get(key)
    if not value:
        raise Unreadable(f"cannot read {element.tag}", f"no {key}")
    return value


def _flag(element: ET.Element, key: str) -> bool | None:
    """A flag as crm_mon prints it; None if it is not there."""
    value = element.get(key)
    if value is None:
        return None
    if value not in ("true", "false"):
        raise Unreadable(f"cannot read {element.tag}", f"{key} is {value!r}")
    return value == "true"


def _word(pair: ET.Element) -> bool:
    """A boolean as people write it into the configuration."""
    value = pair.get("value", "").strip().lower()
    if value not in TRUE_WORDS | FALSE_WORDS:
        raise Unreadable("cannot read the cluster's properties", f"{pair.get('name')} is {value!r}")
    return value in TRUE_WORDS


def _online(node: ET.Element) -> Up:
    """UP: member and its controller has joined. A node whose join is pending is not up yet."""
    online, pending = _flag(node, "online"), _flag(node, "pending")
    if online is False or pending is True:
        return Up.DOWN
    return Up.UNKNOWN if None in (online, pending) else Up.UP


def _crmd(state: ET.Element) -> Up:
    word = state.get("crmd")
    if word is None:
        return Up.UNKNOWN
    if word in ("online", "offline"):
        return Up.UP if word == "online" else Up.DOWN
    if not _NUMBER.fullmatch(word):
        raise Unreadable("cannot read node_state", f"crmd is {word!r}")
    return Up.UP if int(word) > 0 else Up.DOWN


def _managed(resources: ET.Element) -> int | None:
    flags = [_flag(resource, "managed") for resource in resources.iter("resource")]
    return None if None in flags else sum(flag is True for flag in flags)


def _promoted(resources: ET.Element) -> dict[str, frozenset[str]]:
    where: dict[str, frozenset[str]] = {}
    for clone in resources.iter("clone"):
        nodes: set[str] = set()
        for resource in clone.iter("resource"):
            role = _text(resource, "role")
            if role not in ROLES:
                raise Unreadable("cannot read crm_mon", f"unknown role {role!r}")
            if role in PROMOTED:
                here = {_text(node, "name") for node in resource.iterfind("node")}
                if not here:
                    raise Unreadable("cannot read crm_mon", "an instance is promoted, and it is not said where")
                nodes |= here
        where[_text(clone, "id")] = frozenset(nodes)
    return where


def _failed_stops(root: ET.Element) -> Iterator[tuple[str, str]]:
    for failure in root.iterfind("failures/failure"):
        key, node = failure.get("op_key", ""), failure.get("node")
        if failure.get("task") == "stop" and key.endswith("_stop_0") and node:
            yield key.removesuffix("_stop_0"), node


def _stops(actions: ET.Element, fence_devices: Collection[str]) -> Iterator[str]:
    for action in actions.iterfind("rsc_action"):
        word, resource = _text(action, "action"), _text(action, "resource")
        if word in HARMLESS_ACTIONS or (word == "move" and resource in fence_devices):
            continue
        if word not in STOPPING_ACTIONS:
            raise Unreadable("cannot read crm_simulate", f"unknown action {word!r}")
        yield f"{word} {resource} on {action.get('node') or action.get('source') or '?'}"


def _section(cib: ET.Element, name: str) -> ET.Element:
    section = cib.find(f"configuration/{name}")
    if section is None:
        raise Unreadable("cannot read the cluster's configuration", f"no section {name}")
    return section


def _ours(cib: ET.Element) -> ET.Element | None:
    return cib.find(f"configuration/crm_config/cluster_property_set[@id='{HOLD_SET}']")


def _says_hold(ours: ET.Element) -> bool:
    return any(pair.get("name") == "maintenance-mode" and _word(pair) for pair in ours.iterfind("nvpair"))


def _drop_default(config: ET.Element) -> bool:
    """Remove an explicit `maintenance-mode=false` of the bootstrap options; a person's `true` stays."""
    removed = False
    for bootstrap in config.iterfind(f"cluster_property_set[@id='{BOOTSTRAP_SET}']"):
        for pair in bootstrap.findall("nvpair[@name='maintenance-mode']"):
            if not _word(pair):
                bootstrap.remove(pair)
                removed = True
    return removed


def _our_mark(device: ET.Element) -> ET.Element | None:
    return next((m for m in device.iterfind("meta_attributes") if m.get("id", "").startswith(PURGE_PREFIX)), None)


def _bars(constraints: ET.Element, node: str) -> list[ET.Element]:
    found = constraints.findall("rsc_location")
    return [bar for bar in found if bar.get("id", "").startswith(BAR_PREFIX) and bar.get("node") == node]
