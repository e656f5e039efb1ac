"""Every border that takes bytes, as functions that must never raise: for hypothesis and for the long fuzzer.

A check lets the errors that its port documents pass and raises for anything else, also for something believed that
must not be. `found`: inputs that once did, kept in tests/captures/fuzz/NAME/.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pyasn1.codec.ber import decoder
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pysnmp.proto.api import v2c

from fencing import agent, client, fence_peer, sockdiag
from fencing.agent import BadOrderError
from fencing.client import BrokenAnswerError, GuardSaidError, LostGuardError
from guard import plan, record, settings, survey
from guard.adapters import control, snmp, snmp_engine, traps
from guard.adapters.journal import MAGIC, _frame, _frame_at, _good_frame_behind, _records
from guard.adapters.netlink import parse_link
from guard.adapters.snmp_identity import _dotted, _text
from guard.adapters.snmp_profile import parse_profile, read_profile
from guard.core.evidence import LinkSighting
from guard.core.instant import Instant
from guard.errors import PairguardError, SettingsError
from guard.wire import Keyring, Rejected
from guard.witness.store import parse_kept
from tests.fuzz.claims import FORMATS, Format, cib_edits

ROOT = Path(__file__).parents[2]
CAPTURES = ROOT / "tests" / "captures" / "fuzz"
CHANGE = ROOT / "configs" / "examples" / "change"
NASTY = [
    b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"[" * 3000, b"{" * 3000, b"9" * 5000, b"1e999", b"NaN", b"-1", b"\xd9\xa3",
    b'""', b"null", b"\r\n", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;", b"\\", b"%s", b"\x1b[2J",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """One border. `check` raises where a promise is broken."""

    seeds: Callable[[], tuple[bytes, ...]]
    check: Callable[[bytes], None]


def found(name: str) -> list[bytes]:
    """What the fuzzer once broke this border with."""
    return [path.read_bytes() for path in sorted((CAPTURES / name).glob("*"))]


def _format(form: Format) -> Target:
    def check(data: bytes) -> None:
        text = data.decode("utf-8", "replace")  # as adapters/process.py does
        unfounded = form.unfounded(text)
        if unfounded:
            raise AssertionError(f"{form.name} believes {unfounded}")
        if form.name == "cib":
            cib_edits(text)

    return Target(lambda: tuple(text.encode() for text in form.seeds.values()), check)


# ---------------------------------------------------------------- messages


def _wire(data: bytes) -> None:
    from tests.fuzz import test_messages as said

    for form in (data, said.signed(data)):
        opened = said.opened(form)
        if not isinstance(opened, Rejected) and form is data:
            raise AssertionError("unsigned bytes were accepted")
        if not isinstance(opened, Rejected):
            said.hear_everywhere([opened.body])


def _wire_seeds() -> tuple[bytes, ...]:
    from guard.core.messages import Attest, Bye, Evidence, SessionHalf
    from tests.core.desk import A, replica
    from tests.fuzz import test_messages as said

    stated = Evidence(A, "boot", 1, "session-1", False, (replica(),), "up", False)
    bodies = (Attest(1, stated), Bye("stop"), SessionHalf("boot", 1, "aa", ""))
    return tuple(said.sealed(body)[89:] for body in bodies)


# ---------------------------------------------------------------- sockets and agents


def _request(data: bytes) -> None:
    with contextlib.suppress(PairguardError):
        verb, args = control._request(data)
        if not isinstance(verb, str) or not isinstance(args, dict):
            raise AssertionError("a request without a verb")


def _answer(data: bytes) -> None:
    with contextlib.suppress(PairguardError):
        control._taken(data, lambda text: None)
    with contextlib.suppress(BrokenAnswerError, LostGuardError, GuardSaidError):
        said = client._parsed(data)
        if "done" in said:
            done = client._object(said["done"])
            if done.get("confirmed") is True and b"confirmed" not in data and b"\\u" not in data:
                raise AssertionError("a confirmation that nobody gave")
            with contextlib.redirect_stderr(io.StringIO()):
                if fence_peer._code(done) not in fence_peer.ALLOWED:
                    raise AssertionError("a code that DRBD would take for leave")
        elif "error" in said:
            raise client._refusal(client._object(said["error"]))


def _stdin(data: bytes) -> None:
    try:
        lines = io.TextIOWrapper(io.BytesIO(data), "utf-8").readlines()
        order = agent.read_order(agent.from_lines(lines))
    except (BadOrderError, UnicodeDecodeError):
        return
    if order.action not in agent.ACTIONS or not math.isfinite(order.wait_s):
        raise AssertionError(f"{order} was ordered")
    if order.action in agent.SHOTS and (order.target is None or order.target.encode() not in data):
        raise AssertionError(f"a shot at {order.target}, whom nobody named")
    order.socket.encode()


def _drbd_environment(data: bytes) -> None:
    """DRBD's handler: variables as an environment would hold them (os.fsdecode)."""
    env = {}
    for line in data.split(b"\0"):
        name, _, value = line.decode("utf-8", "surrogateescape").partition("=")
        env[name] = value
    asked = fence_peer.question("r0", env)
    for number in fence_peer._numbers(asked["minors"]):
        if str(number).encode() not in data and b"0" not in data:
            raise AssertionError(f"minor {number} that nobody named")


def _kernel_sockets(data: bytes) -> None:
    with contextlib.suppress(PairguardError):
        list(sockdiag.parsed(2, 6, [(20, data)]))
        list(sockdiag.parsed(2, 6, [(sockdiag.NLMSG_ERROR, data)]))


# ---------------------------------------------------------------- files


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="pairguard-fuzz-")


def _settings(data: bytes) -> None:
    file = Path(_folder().name) / "pairguard.toml"
    file.write_bytes(data)
    try:
        read, _ = settings.load_guard([file])
    except SettingsError as error:
        str(error)
        return
    limits = [value for value in vars(read.limits).values() if isinstance(value, float)]
    if not all(math.isfinite(value) for value in limits):
        raise AssertionError("a limit that is no number")
    for path in (read.keys.private, read.keys.public_dir, read.paths.state):
        path.exists()
    if read.pair.peer not in read.fence or read.pair.node == read.pair.peer:
        raise AssertionError("no device for the peer")


def _profile(data: bytes) -> None:
    with contextlib.suppress(SettingsError, UnicodeDecodeError):
        parse_profile(data.decode("utf-8"), "a test")


def _file(data: bytes, read: Callable[[Path], object]) -> None:
    """A reader of a file that a person made or another node exported: `PairguardError` with what, why and next, or a
    value that survives being written and read once more."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(data)
        with contextlib.suppress(PairguardError):
            read(path)


def _plan(data: bytes) -> None:
    def read(path: Path) -> None:
        found = plan.load(path).plan
        if not found.step or not all(0 < each.duration + each.frozen_s() < math.inf for each in found.step):
            raise AssertionError("a plan with a step that takes no time")

    _file(data, read)


def _survey(data: bytes) -> None:
    def read(path: Path) -> None:
        found = survey.read(path)
        if any(survey.misfit(key, fact.value) for key, fact in found.facts.items()):
            raise AssertionError("a fact that does not fit its key")
        if survey.together([found, found]).digest() != found.digest():
            raise AssertionError("the same survey twice is another one")

    _file(data, read)


def _statements(data: bytes) -> None:
    _file(data, lambda path: survey.said(path, "site"))


def _record(data: bytes) -> None:
    def read(path: Path) -> None:
        record.opened(record.read(path), "site", Keyring({}))
        raise AssertionError("a record was trusted that nobody sealed")

    _file(data, read)


def _store(data: bytes) -> None:
    with contextlib.suppress(PairguardError, UnicodeDecodeError):
        parse_kept("fs1", data.decode("utf-8"), Path("store"))


def _journal(data: bytes) -> None:
    whole = MAGIC + data
    at, seq = len(MAGIC), 0
    while (one := _frame_at(whole, at)) is not None:
        seq, payload = one
        with contextlib.suppress(PairguardError):
            _records(payload, Path("journal"))
        at += 16 + len(payload)
    _good_frame_behind(whole, at, seq)
    with contextlib.suppress(PairguardError):
        _records(data, Path("journal"))


# ---------------------------------------------------------------- network


def _trap(data: bytes) -> None:
    if traps.is_snmp(data) not in (True, False):
        raise AssertionError("neither SNMP nor not")
    ear = traps._Ear(None)
    ear.bell = asyncio.Event()
    ear.datagram_received(data, ("127.0.0.1", 1))


@cache
def _switch() -> snmp.SnmpSwitch:
    from tests.fuzz.test_messages import Standing

    profile = read_profile(ROOT / "configs" / "profiles" / "generic.toml")
    made = snmp.SnmpSwitch(
        "sw1",
        "127.0.0.1",
        161,
        snmp_engine.Community("public"),
        profile,
        {"port": 7},
        {},
        snmp_engine.build_engine(),
        Standing(),
        0.5,
    )
    made._bridge = {7: 3}
    return made


@contextlib.contextmanager
def switch(port: int, bridge_port: int) -> Iterator[snmp.SnmpSwitch]:
    """A watcher of one port, with its bridge port already known; nothing is sent."""
    made = _switch()
    made._if_index, made._bridge = {"port": port}, {port: bridge_port}
    yield made


def _snmp_answer(data: bytes) -> None:
    """A datagram as pysnmp decodes it, then all that we make of its values."""
    try:
        message, _ = decoder.decode(data, asn1Spec=v2c.Message())
        varbinds = v2c.apiPDU.get_varbinds(v2c.apiMessage.get_pdu(message))
    except Exception:
        return
    answer = snmp._Answer()
    answer.take(_switch()._wanted(), varbinds)
    _switch()._sighting(Instant(0), answer)
    for _, value in varbinds:
        _text(value)
        _dotted(value)


def _snmp_seeds() -> tuple[bytes, ...]:
    from pyasn1.codec.ber import encoder
    from pysnmp.proto import rfc1902

    response = v2c.ResponsePDU()
    v2c.apiPDU.set_defaults(response)
    kinds = (rfc1902.Integer32(1), rfc1902.TimeTicks(5), rfc1902.OctetString(b"ab"), rfc1902.Counter32(2))
    v2c.apiPDU.set_varbinds(response, list(zip(_switch()._wanted(), kinds, strict=False)))
    message = v2c.Message()
    v2c.apiMessage.set_defaults(message)
    v2c.apiMessage.set_pdu(message, response)
    return (encoder.encode(message),)


logging.getLogger("pyroute2").setLevel(logging.CRITICAL)  # it logs a trace for each message it cannot decode


def link(data: bytes) -> LinkSighting | None:
    """One message as pyroute2 decodes it; None where it refuses."""
    message = ifinfmsg(data)
    try:
        message.decode()
    except Exception:
        return None
    try:
        return parse_link(message, Instant(0))
    except PairguardError:
        return None


def _link(data: bytes) -> None:
    link(data)


def _link_seeds() -> tuple[bytes, ...]:
    one = ifinfmsg()
    one["index"], one["flags"] = 2, 1
    info = {"attrs": [("IFLA_INFO_KIND", "bond"), ("IFLA_INFO_SLAVE_KIND", "bridge")]}
    one["attrs"] = [("IFLA_IFNAME", "eth0"), ("IFLA_OPERSTATE", "UP"), ("IFLA_CARRIER", 1), ("IFLA_LINKINFO", info)]
    one.encode()
    return (bytes(one.data),)


def _kept() -> tuple[bytes, ...]:
    from guard.witness.store import plain_kept
    from tests.fuzz.test_edges import kept

    return (plain_kept(kept()).encode(),)


_REQUEST = b'{"schema":"pairguard.control/1","verb":"hold","args":{"lease_s":60,"reason":"x"}}\n'
TARGETS: Mapping[str, Target] = {form.name: _format(form) for form in FORMATS} | {
    "wire": Target(_wire_seeds, _wire),
    "control-request": Target(lambda: (_REQUEST,), _request),
    "control-answer": Target(
        lambda: (b'{"done":{"confirmed":true,"code":4}}\n', b'{"progress":"x"}\n',
                 b'{"error":{"code":"a","what":"b","why":"c","next":"d"}}\n'),
        _answer,
    ),
    "agent-stdin": Target(lambda: (b"action=off\nport=fs1b\nnodename=fs1b\nwait_s=50\ndelegate=fence_x\n",), _stdin),
    "handler-environment": Target(lambda: (b"DRBD_MINOR=0\0DRBD_PEERS=a b\0DRBD_MINOR_1=12\0UP_TO_DATE_NODES=1",),
                                  _drbd_environment),
    "kernel-sockets": Target(lambda: (bytes(72) + b"\x0c\x00\x15\x00" + bytes(8), b"\xff" * 4), _kernel_sockets),
    "settings": Target(lambda: ((ROOT / "configs" / "pairguard.toml").read_bytes(),), _settings),
    "profile": Target(lambda: ((ROOT / "configs" / "profiles" / "generic.toml").read_bytes(),), _profile),
    "plan": Target(lambda: ((CHANGE / "plan.toml").read_bytes(),), _plan),
    "survey": Target(lambda: ((CHANGE / "survey.json").read_bytes(),), _survey),
    "statements": Target(lambda: ((CHANGE / "said.toml").read_bytes(),), _statements),
    "record": Target(lambda: (b'{"schema":"pairguard.rehearsal-record/1","site":"site","seal":"pg1.a","facts":{}}',),
                     _record),
    "store-row": Target(_kept, _store),
    "journal": Target(lambda: (_frame(1, b'[{"kind":"memory"}]') + _frame(2, b"[]"), b"[{}]"), _journal),
    "trap": Target(_snmp_seeds, _trap),
    "snmp-answer": Target(_snmp_seeds, _snmp_answer),
    "link": Target(_link_seeds, _link),
}  # fmt: skip
