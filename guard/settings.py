"""Settings of guard and witness: TOML fragments, checked whole before anything starts.

1. What is not known is refused with file, key, found and allowed; a misspelt word never switches a protection off.
2. Secrets are paths to files whose mode is checked where they are read.
3. Simulated surroundings cannot be named here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
    model_validator,
)

from guard import documents
from guard.core.policy import Policy
from guard.errors import SettingsError

VENDOR = Path("/usr/lib/pairguard/conf.d")
ETC = Path("/etc/pairguard")
RUN = Path("/run/pairguard/conf.d")
NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
AGENT = r"^fence_[a-z0-9_]+$"
PREFIX = r"^(/[a-z0-9][a-z0-9._-]{0,62}){1,4}$"
_ALLOWED = {
    NAME: "write lower-case letters, digits, dots, dashes and underscores, at most 63, a letter or digit first",
    AGENT: "write the name of a stock fence agent, such as fence_ipmilan",
    PREFIX: "write a path such as /pairguard/north, of names in lower case, without a slash at its end",
}
S = TypeVar("S", bound="Section")
_DURATION = re.compile(r"(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,9}(?:\.[0-9]{1,9})?)s)?")  # 100 years at most


def seconds(value: object) -> float:
    """`90s`, `10m`, `1h30m`, `0.3s` in seconds. ValueError for anything else: a bare number has no unit."""
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None or not any(found.groups()):
        raise ValueError("write a duration such as 0.3s, 90s, 10m or 1h30m")
    hours, minutes, rest = found.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(rest or 0)


def _address(value: str) -> str:
    return str(ipaddress.ip_address(value))


Duration = Annotated[float, BeforeValidator(seconds)]
Name = Annotated[str, Field(pattern=NAME)]
Address = Annotated[str, AfterValidator(_address)]
Port = Annotated[StrictInt, Field(ge=1, le=65535)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _path(value: object) -> Path:
    if not isinstance(value, str | Path):
        raise ValueError("write an absolute path")
    path = Path(value)
    if not path.is_absolute() or "\0" in str(path):  # the kernel takes no such name
        raise ValueError("write an absolute path")
    return path


FilePath = Annotated[Path, BeforeValidator(_path)]


class Tls(Section):
    ca: FilePath
    certificate: FilePath
    key: FilePath
    server_name: str | None = None


class Bus(Section):
    """Where signed messages travel. `hub` is the sandbox's, which serves it: for a machine without Mosquitto."""

    kind: Literal["mqtt", "hub"] = "mqtt"
    host: Address = "127.0.0.1"
    port: Port = 1883
    socket: FilePath | None = None
    tls: Tls | None = None


class Keys(Section):
    private: FilePath
    public_dir: FilePath


class Paths(Section):
    state: FilePath = Path("/var/lib/pairguard")
    run: FilePath = Path("/run/pairguard")


class WitnessPaths(Paths):
    """Apart from a guard's, should both ever run on one machine."""

    state: FilePath = Path("/var/lib/pairguard-witness")
    run: FilePath = Path("/run/pairguard-witness")


class StoreTls(Section):
    """`certificate` and `key`: where etcd asks for one. With auth on it must carry no CN: the gateway refuses it."""

    ca: FilePath
    certificate: FilePath | None = None
    key: FilePath | None = None
    server_name: str | None = None


_ENDPOINT = re.compile(r"(https?)://(?:([0-9.]+)|\[([0-9a-fA-F:.]+)\]):[0-9]{1,5}")


def _endpoint(value: str) -> str:
    found = _ENDPOINT.fullmatch(value)
    if found is None:
        raise ValueError("write an address such as https://192.0.2.21:2379, no name")
    if not ipaddress.ip_address(found[2] or found[3]).is_loopback and found[1] == "http":
        raise ValueError("write https: only an etcd on loopback is used without TLS")
    return value


class StoreSettings(Section):
    """Where the registers are. `sqlite`: one file below paths.state. `etcd`: several witnesses, one of which speaks."""

    kind: Literal["sqlite", "etcd"] = "sqlite"
    endpoints: tuple[Annotated[str, AfterValidator(_endpoint)], ...] = ()
    prefix: Annotated[str, Field(pattern=PREFIX)] | None = None
    ttl: Duration = 10.0
    user: str | None = None
    password_file: FilePath | None = None
    tls: StoreTls | None = None

    @model_validator(mode="after")
    def _etcd(self) -> StoreSettings:
        more = [name for name, field in StoreSettings.model_fields.items() if getattr(self, name) != field.default]
        if self.kind == "sqlite" and more:
            raise ValueError(f'{", ".join(more)}: only with kind = "etcd"')
        if self.kind == "etcd" and not self.endpoints:
            raise ValueError('kind = "etcd" needs `endpoints`')
        if (self.user is None) != (self.password_file is None):
            raise ValueError("give both `user` and `password_file`, or neither")
        if self.tls is not None and (self.tls.certificate is None) != (self.tls.key is None):
            raise ValueError("tls: give both `certificate` and `key`, or neither")
        if (self.tls is not None) != any(each.startswith("https:") for each in self.endpoints):
            raise ValueError("https endpoints need [store.tls], and only they do")
        if self.ttl != int(self.ttl) or not 3 <= self.ttl <= 60:  # etcd counts whole seconds, and elects in 1 to 2 s
            raise ValueError("ttl must be whole seconds from 3s to 60s")
        return self


class Log(Section):
    to: Literal["auto", "journal", "stderr"] = "auto"


class Limits(Section):
    """Every limit of the protocol; see `guard.core.policy` for what each means. Defaults are DESIGN.md's."""

    corr: Duration = 0.3
    heard: Duration = 2.0
    answer: Duration = 0.8
    accept: Duration = 2.0
    fire: Duration = 3.0
    shot: Duration = 20.0
    agent_wait: Duration = 50.0
    cold: Duration = 120.0
    alone_under_hold: Duration | Literal["never"] = 30.0
    settle: Duration = 60.0
    beat: Duration = 0.4
    attest: Duration = 5.0
    unheard: Duration = 30.0
    sampling: Duration = 0.5
    storm_window: Duration = 30.0
    storm_retry: Duration = 60.0
    handler_promote: Duration = 15.0
    wait_margin: Duration = 10.0
    cluster_gone: Duration = 10.0

    def policy(self, shot_s: float | None = None) -> Policy:
        """`shot_s`: the fence device's own timeout; None = the longest that any device of the site may have."""
        alone = None if self.alone_under_hold == "never" else float(self.alone_under_hold)
        return Policy(
            corr_s=self.corr,
            heard_s=self.heard,
            answer_s=self.answer,
            accept_s=self.accept,
            fire_s=self.fire,
            shot_s=self.shot if shot_s is None else shot_s,
            cold_s=self.cold,
            alone_under_hold_s=alone,
            settle_s=self.settle,
            beat_s=self.beat,
            attest_s=self.attest,
            unheard_s=self.unheard,
            sampling_s=self.sampling,
            storm_window_s=self.storm_window,
            storm_retry_s=self.storm_retry,
            handler_promote_s=self.handler_promote,
            wait_margin_s=self.wait_margin,
            cluster_gone_s=self.cluster_gone,
        )


class Pair(Section):
    name: Name
    node: Name
    peer: Name
    cell: Name = "site"

    @model_validator(mode="after")
    def _two(self) -> Pair:
        if self.node == self.peer:
            raise ValueError("node and peer are the same")
        return self


class Probe(Section):
    """The guard's own probe of the peer's ring addresses: UDP, one port, every 0.1 s."""

    own: Address
    peer: Address
    port: Port = 5409


class Cluster(Section):
    kind: Literal["pacemaker", "command"] = "pacemaker"
    promotable: tuple[str, ...] = ()
    command: FilePath | None = None
    deadline: Duration = 5.0

    @model_validator(mode="after")
    def _commanded(self) -> Cluster:
        if (self.kind == "command") != (self.command is not None):
            raise ValueError('kind = "command" needs `command`, and only it does')
        return self


class ReplicationSettings(Section):
    kind: Literal["drbd"] = "drbd"
    resources: Annotated[tuple[str, ...], Field(min_length=1)]


class Fence(Section):
    """The fence device of one node: a stock agent and its options in the agent's own words."""

    delegate: Annotated[str, Field(pattern=AGENT)]
    options: Mapping[str, str] = Field(default_factory=dict)
    timeout: Duration = 20.0
    horizon: Duration | Literal["auto", "unbounded"] = "auto"
    accept_unbounded: StrictBool = False


class SwitchPort(Section):
    name: str
    ifindex: Annotated[StrictInt, Field(ge=1)]
    owner: Literal["ours", "peer", "uplink", "peer-link", "other"]
    lag: StrictBool = False


class SwitchSettings(Section):
    name: Name
    host: Address
    port: Port = 161
    profile: str = "generic"
    community_file: FilePath | None = None
    user: str | None = None
    auth_file: FilePath | None = None
    priv_file: FilePath | None = None
    auth: Literal["SHA", "SHA-256", "SHA-512"] = "SHA-256"
    priv: Literal["AES", "AES-256"] = "AES"
    poll: Duration = 1.0
    timeout: Duration = 0.5
    peer_link: str | None = None
    ports: tuple[SwitchPort, ...] = ()

    @model_validator(mode="after")
    def _credentials(self) -> SwitchSettings:
        v3 = self.user is not None and self.auth_file is not None and self.priv_file is not None
        if (self.community_file is None) == (not v3):
            raise ValueError("give either `community_file` (v2c) or `user`, `auth_file` and `priv_file` (v3)")
        if self.timeout >= self.poll:
            raise ValueError("timeout must be below poll")
        return self


class TrapSettings(Section):
    address: Address
    port: Port = 162


class Network(Section):
    interfaces: tuple[str, ...] = ()
    silent_polls: Annotated[StrictInt, Field(ge=1, le=60)] = 2
    profiles: FilePath | None = None
    traps: TrapSettings | None = None


class Control(Section):
    """Who may give orders on the control socket besides root: this group. None = root only."""

    group: str | None = None


class GuardSettings(Section):
    """`pairguardd`."""

    site: Name
    pair: Pair
    bus: Bus = Bus()
    keys: Keys
    paths: Paths = Paths()
    log: Log = Log()
    probe: Probe | None = None
    cluster: Cluster = Cluster()
    replication: ReplicationSettings
    fence: Mapping[str, Fence]
    network: Network = Network()
    switch: tuple[SwitchSettings, ...] = ()
    control: Control = Control()
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _relations(self) -> GuardSettings:
        if self.pair.peer not in self.fence:
            raise ValueError(f"fence has no device for the peer {self.pair.peer}: add [fence.{self.pair.peer}]")
        strangers = set(self.fence) - {self.pair.node, self.pair.peer}
        if strangers:
            raise ValueError(f"fence names nodes that are not of this pair: {', '.join(sorted(strangers))}")
        names = [switch.name for switch in self.switch]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two [[switch]] have one name: {', '.join(twice)}")
        limits = self.limits
        for node, fence in sorted(self.fence.items()):
            _checked(limits, fence.timeout)
            if fence.timeout > limits.shot:
                raise ValueError(
                    f"fence.{node}.timeout ({fence.timeout:g}s) exceeds limits.shot ({limits.shot:g}s), "
                    "with which the arbiter counts when a late shot has drained"
                )
            longest = limits.answer + limits.fire + fence.timeout + limits.wait_margin
            if longest >= limits.agent_wait:
                raise ValueError(
                    f"a shot at {node} may take {longest:g}s (limits.answer + limits.fire + fence.{node}.timeout + "
                    f"limits.wait_margin): limits.agent_wait ({limits.agent_wait:g}s) must be longer"
                )
        longest = limits.answer + limits.fire + limits.shot + limits.wait_margin
        if longest >= limits.agent_wait:
            raise ValueError(
                f"a shot may take {longest:g}s (limits.answer + limits.fire + limits.shot + limits.wait_margin), as "
                f"limits.shot ({limits.shot:g}s) allows: limits.agent_wait ({limits.agent_wait:g}s) must be longer"
            )
        return self


class WitnessSettings(Section):
    """`pairguard-witness`."""

    site: Name
    bus: Bus = Bus()
    keys: Keys
    paths: WitnessPaths = WitnessPaths()
    store: StoreSettings = StoreSettings()
    log: Log = Log()
    control: Control = Control()
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _relations(self) -> WitnessSettings:
        _checked(self.limits, None)
        return self


def _checked(limits: Limits, shot_s: float | None) -> None:
    """ValueError in the words of the settings, which name durations without their unit."""
    try:
        limits.policy(shot_s)
    except ValueError as error:
        raise ValueError(re.sub(r"\b(\w+?)_s\b", r"\1", str(error))) from None


# ------------------------------------------------------------------ reading


@dataclass(frozen=True, slots=True)
class Origin:
    """Which file each value came from, for `pairguard check --settings` and for naming the file of a fault."""

    files: tuple[Path, ...]
    key_of: Mapping[str, Path]  # dotted key, such as limits.corr, also of each table: the last file that wrote in it

    def of(self, key: str) -> Path:
        """The file of `key`, or of the nearest table above it; the last file if no file has any of it."""
        parts = key.split(".")
        for length in range(len(parts), 0, -1):
            found = self.key_of.get(".".join(parts[:length]))
            if found is not None:
                return found
        return self.files[-1]


def fragments(program: Literal["pairguard", "witness"]) -> tuple[Path, ...]:
    """The fragments of this machine, in the order in which a later one overrides an earlier one."""
    return fragments_of(program, VENDOR, ETC, RUN)


def fragments_of(program: Literal["pairguard", "witness"], vendor: Path, etc: Path, run: Path) -> tuple[Path, ...]:
    """As `fragments`, in these folders; below `guard` or `witness`: for one alone. A dead link stops the start."""
    own = etc / ("witness.toml" if program == "witness" else "pairguard.toml")
    alone = "witness" if program == "witness" else "guard"

    def of(folder: Path) -> tuple[Path, ...]:
        return (*sorted(folder.glob("*.toml")), *sorted((folder / alone).glob("*.toml")))

    return (*of(vendor), *((own,) if own.exists() or own.is_symlink() else ()), *of(etc / "conf.d"), *of(run))


def load_guard(files: Sequence[Path]) -> tuple[GuardSettings, Origin]:
    """`SettingsError` names every fault at once: file, key, what was found and what is allowed.

    Relations between settings are checked once each of them is right by itself.
    """
    merged, origin = _merged(files)
    return _validated(GuardSettings, merged, origin), origin


def load_witness(files: Sequence[Path]) -> tuple[WitnessSettings, Origin]:
    """As `load_guard`."""
    merged, origin = _merged(files)
    return _validated(WitnessSettings, merged, origin), origin


def _merged(files: Sequence[Path]) -> tuple[dict[str, Any], Origin]:
    if not files:
        where = "/usr/share/doc/pairguard/examples explains them (in the source: configs)"
        next_step = f"write {ETC}/pairguard.toml on a node, {ETC}/witness.toml on the arbiter; {where}"
        raise SettingsError("cannot find any settings", f"no file in {ETC}", next_step)
    merged: dict[str, Any] = {}
    key_of: dict[str, Path] = {}
    for path in files:
        content = documents.toml(path)
        _note_origin(key_of, path, content, "")
        merged = _over(merged, content)
    return merged, Origin(tuple(files), key_of)


def _note_origin(key_of: dict[str, Path], path: Path, table: Mapping[str, Any], above: str) -> None:
    for key, value in table.items():
        key_of[above + key] = path
        if isinstance(value, dict):
            _note_origin(key_of, path, value, f"{above}{key}.")


def _over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged, anything else (also a list of tables, such as [[switch]]) is replaced whole."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = _over(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _validated(model: type[S], merged: dict[str, Any], origin: Origin) -> S:
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        lines = documents.faults(model, merged, error, origin.of, allowed=_ALLOWED, hint=_hint(model))
        raise SettingsError(
            "cannot start with these settings",
            "\n  " + "\n  ".join(lines),
            "mend them and run: pairguard check --settings",
        ) from error


def _hint(model: type[Section]) -> documents.Hint:
    """A key that only the guard has is no misspelling in the witness's settings."""

    def said(loc: Sequence[str | int]) -> str | None:
        if model is WitnessSettings and str(loc[-1]) in documents.keys_at(GuardSettings, loc[:-1]):
            return "only the guard has it: a fragment for the guard alone goes into conf.d/guard"
        return None

    return said
