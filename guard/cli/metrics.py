"""`pairguard metrics`: what `status` shows, as Prometheus reads it; for a scrape by hand or node_exporter's textfiles.

Names and units follow prometheus.io/docs/practices/naming. What is not known is left out: a sample that is missing is
UNKNOWN, never 0. Alert rules and what to do about each: configs/prometheus/.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guard.cli.options import UNVERIFIED, answer, command
from guard.errors import PairguardError, Unavailable

if TYPE_CHECKING:
    from prometheus_client.core import Metric

STATES = ("none", "braked", "in-force", "held", "settling", "releasing")  # guard.core.hold.Stage
MODE = 0o644  # node_exporter runs as a user of its own


@command(name="metrics")
@click.argument("pairs", nargs=-1, metavar="[PAIR]...")
@click.option("--textfile", type=click.Path(path_type=Path), metavar="FILE", help="Write there, whole or not at all.")
def metrics(pairs: tuple[str, ...], textfile: Path | None, as_json: bool, config: str | None) -> None:
    """What `status` shows as Prometheus metrics. Read-only, needs no right.

    With --textfile for node_exporter: FILE.prom in its textfile folder, from a
    timer. If nobody answers, pairguard_up is 0 and the exit code 85: an alert
    on its absence and on 0 is one rule.
    """
    from guard.cli import wiring
    from guard.cli.status import current

    loaded, clock = wiring.load(config), wiring.clock()
    silent: PairguardError | None = None
    data: Mapping[str, Any] = {"site": loaded.site, "pairs": []}
    code = UNVERIFIED
    try:
        data, code = wiring.do(current(loaded, pairs))
    except Unavailable as error:
        silent = error
    counts = {} if loaded.guard is None or silent else wiring.do(_counted(loaded.guard.paths.run))
    text = exposition(data, counts, clock.wall(), up=silent is None)
    if textfile is not None:
        write(textfile, text)
    said = {"schema": "pairguard.metrics/1", "site": data["site"], "up": silent is None, "text": text}
    if silent is not None:
        said |= {"what": silent.what, "why": silent.why, "next": silent.next_step}
    shown = text.rstrip("\n") if textfile is None else f"{len(text.splitlines())} lines written to {textfile}"
    answer(said, shown, code if silent is None else UNVERIFIED, as_json=as_json)


async def _counted(run_dir: Path) -> dict[str, int]:
    """Events since the guard started, by name; empty if an older guard does not count."""
    from guard.cli import wiring

    found = await wiring.bounded(wiring.show(run_dir, "counts"), wiring.READ_S_MAX + 1.0, "the guard")
    return {} if isinstance(found, PairguardError) else {str(k): int(v) for k, v in found.get("events", {}).items()}


def exposition(data: Mapping[str, Any], counts: Mapping[str, int], wall: float, *, up: bool) -> str:
    """`pairguard.status/1` in Prometheus' text format."""
    from prometheus_client import CollectorRegistry, generate_latest

    found = list(families(data, counts, wall, up=up))

    class Once:
        def collect(self) -> Iterator[Metric]:
            yield from found

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Once())
    return generate_latest(registry).decode()


def families(data: Mapping[str, Any], counts: Mapping[str, int], wall: float, *, up: bool) -> Iterator[Metric]:
    """Every metric, also one that has no sample now: its name and help never come and go."""
    from prometheus_client.core import CounterMetricFamily

    pairs: Sequence[Mapping[str, Any]] = data.get("pairs", ())
    yield _gauge("pairguard_up", "1: guard or witness of this machine answered.", (), [((), float(up))])
    yield _gauge("pairguard_store_trouble", "1: the witness cannot write its store.", (), _store(data))
    for name, text, key in (
        ("pairguard_whole", "1: both nodes up, replicating and UpToDate in one membership.", "whole"),
        ("pairguard_attested", "1: both ends testified the same session.", "attested"),
        ("pairguard_barred", "1: the peer won the era, so this node may not be promoted.", "barred"),
        ("pairguard_yielded", "1: this node stepped back from a claim; its writes are suspended.", "yielded"),
        ("pairguard_store_doubted", "1: the arbiter's memory is not the one this guard knew.", "store_doubted"),
    ):
        yield _gauge(name, text, ("pair",), [((p["pair"],), float(p[key])) for p in pairs if p.get(key) is not None])
    arbiter = [((p["pair"],), float(p["arbiter"] == "up")) for p in pairs if p.get("arbiter")]
    yield _gauge("pairguard_arbiter_up", "1: the arbiter answers this node's guard.", ("pair",), arbiter)
    yield from _held(pairs, wall)
    yield from _registers(pairs)
    yield from _nodes(pairs)
    pages = [((p["pair"], page), 1.0) for p in pairs for page in p.get("pages") or ()]
    yield _gauge("pairguard_page", "1 for each thing for which a person is called now.", ("pair", "page"), pages)
    waiting = [((p["pair"], w["who"]), 1.0) for p in pairs for w in p.get("waiting") or ()]
    yield _gauge(
        "pairguard_requests_waiting", "Requests of the cluster or of DRBD that wait.", ("pair", "who"), waiting
    )
    shots = [((p["pair"],), float(len(p["shots"]))) for p in pairs if p.get("shots") is not None]
    yield _gauge("pairguard_shots", "Shots of this era that the guard remembers.", ("pair",), shots)
    events = CounterMetricFamily("pairguard_events", "Events since the guard started, by name.", labels=("event",))
    for event, count in sorted(counts.items()):
        events.add_metric((event,), count)
    yield events


def _held(pairs: Sequence[Mapping[str, Any]], wall: float) -> Iterator[Metric]:
    states, verified, inhibits, oldest, quiet, lease = [], [], [], [], [], []
    for pair in pairs:
        name, hold = pair["pair"], pair.get("hold") or {}
        if hold.get("state") is not None:
            states += [((name, each), float(each == hold["state"])) for each in STATES]
        verified += [((name, node), float(proven)) for node, proven in sorted((hold.get("verified") or {}).items())]
        standing = hold.get("inhibits") or ()
        inhibits += [((name, each["kind"]), 1.0) for each in standing if each.get("kind")]
        moments = [datetime.fromisoformat(each["since"]).timestamp() for each in standing if each.get("since")]
        oldest += [((name,), max(0.0, wall - min(moments)))] if moments else []
        leases = [each["lease_s"] for each in standing if each.get("lease_s") is not None]
        lease += [((name,), float(min(leases)))] if leases else []
        network = pair.get("network") or {}
        quiet += [((name,), float(network["quiet_for_s"]))] if network.get("quiet_for_s") is not None else []
    yield _gauge(
        "pairguard_hold_state", "1 for the state of the pair's hold, 0 for the others.", ("pair", "state"), states
    )
    yield _gauge("pairguard_hold_verified", "1: this node's part of the hold is read back.", ("pair", "node"), verified)
    yield _gauge("pairguard_inhibits", "Reasons that keep the pair from fencing, by kind.", ("pair", "kind"), inhibits)
    yield _gauge("pairguard_hold_age_seconds", "Age of the oldest reason of the hold.", ("pair",), oldest)
    yield _gauge("pairguard_hold_lease_seconds", "What is left of the shortest lease.", ("pair",), lease)
    yield _gauge("pairguard_network_quiet_seconds", "Since when the network has been quiet.", ("pair",), quiet)


def _registers(pairs: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    known = [(p["pair"], p["register"]) for p in pairs if p.get("register")]
    eras = [((name,), float(register["era"])) for name, register in known]
    winners = [((name, register["winner"]), 1.0) for name, register in known if register.get("winner")]
    yield _gauge("pairguard_era", "Number of the register's era.", ("pair",), eras)
    yield _gauge("pairguard_winner", "1: this node won the era, which is still open.", ("pair", "node"), winners)
    rights = [((p["pair"], p["right"]), 1.0) for p in pairs if p.get("right")]
    yield _gauge("pairguard_right", "1: this node may fence its peer, or run alone, now.", ("pair", "purpose"), rights)


def _nodes(pairs: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    nodes = [(p["pair"], node, said) for p in pairs for node, said in sorted((p.get("nodes") or {}).items())]
    gates = [((pair, node), float(said["gate"])) for pair, node, said in nodes if said.get("gate") is not None]
    primaries = [
        ((pair, node), float(said["role"] == "Primary")) for pair, node, said in nodes if said.get("role") != "?"
    ]
    good = [((pair, node), float(said["disk"] == "UpToDate")) for pair, node, said in nodes if said.get("disk") != "?"]
    ages = []
    for pair, node, said in nodes:
        for bound, value in zip(("lower", "upper"), said.get("write_age_s") or (), strict=False):
            ages += [((pair, node, bound), float(value))] if value is not None else []
    labels = ("pair", "node")
    yield _gauge("pairguard_gate", "1: DRBD's gate is proven: alone, it writes nothing unasked.", labels, gates)
    yield _gauge("pairguard_primary", "1: this node is Primary.", labels, primaries)
    yield _gauge("pairguard_disk_up_to_date", "1: this node's disk is UpToDate.", labels, good)
    yield _gauge("pairguard_write_age_seconds", "The last write lies between these ages.", (*labels, "bound"), ages)


def _store(data: Mapping[str, Any]) -> list[tuple[tuple[str, ...], float]]:
    return [((), 1.0)] if data.get("store_trouble") else [((), 0.0)]


def _gauge(name: str, text: str, labels: tuple[str, ...], samples: Sequence[tuple[tuple[str, ...], float]]) -> Metric:
    """Samples of the same labels are added up."""
    from prometheus_client.core import GaugeMetricFamily

    sums: dict[tuple[str, ...], float] = {}
    for values, value in samples:
        sums[values] = sums.get(values, 0.0) + value
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in sums.items():
        family.add_metric(values, value)
    return family


def write(path: Path, text: str) -> None:
    """Beside it first, then renamed over it: the collector never reads half a file. `Unavailable`: it cannot be."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            fresh.write_text(text, encoding="utf-8")
            fresh.chmod(MODE)
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        why = error.strerror or str(error)
        raise Unavailable(f"cannot write {path}", why, "name a file in a folder that this user may write") from error
