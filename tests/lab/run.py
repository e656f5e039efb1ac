"""The lab's command line: `python -m tests.lab.run --pairs 3 --freeze stp --seconds 12 --out build/lab/NAME`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.lab.cluster import Timers
from tests.lab.freeze import KINDS
from tests.lab.plan import REACHES, REPLICATIONS, Plan
from tests.lab.space import LabFailed, boottime, end_on_signals
from tests.lab.story import run, table


def main(words: list[str] | None = None) -> int:
    """Run one story. 0: it ran (whatever the pairs did); 1: the lab itself failed."""
    end_on_signals()
    options = arguments(words)
    plan = Plan(
        pairs=options.pairs,
        freeze=options.freeze,
        seconds=options.seconds,
        guarded=options.guarded,
        latency_s=options.latency,
        replication=options.replication,
        timers=Timers(
            token_ms=options.token, stonith_timeout_s=options.stonith_timeout, power_timeout_s=options.power_timeout
        ),
        snmp=True if options.snmp else None,
        arbiter=options.arbiter,
        power=options.power,
        rings=options.rings,
        ports_stay_up=options.ports_stay_up,
        watch_s=options.watch,
        restore=options.restore,
    )
    begun = boottime()
    try:
        record = run(plan, options.out, quiet=options.quiet)
    except LabFailed as error:
        print(f"lab failed: {error} (logs: {options.out / 'logs'})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(record.title)
    print(table(record))
    print(
        f"formed in {record.marks['formed'] - begun:.1f} s, whole run {boottime() - begun:.1f} s; "
        f"{options.out / 'record.json'}"
    )
    return 0


def arguments(words: list[str] | None) -> argparse.Namespace:
    """The options, with the recorded baseline's values as defaults."""
    parser = argparse.ArgumentParser(
        prog="tests.lab.run", description="Pairs of real corosync and Pacemaker, and a network that freezes."
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--stock", dest="guarded", action="store_false", help="the ordinary fence agent (default)")
    kind.add_argument("--guarded", dest="guarded", action="store_true", help="our daemon, agent, witness and Mosquitto")
    parser.set_defaults(guarded=False)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--freeze", choices=KINDS, default="stp")
    parser.add_argument("--seconds", type=float, default=12.0, help="how long the outage is asked to last")
    parser.add_argument(
        "--latency", type=float, default=1.0, help="seconds from a power-off's acknowledgement to its effect"
    )
    parser.add_argument("--replication", choices=REPLICATIONS, default="drbd")
    parser.add_argument("--token", type=int, default=1000, help="corosync token, milliseconds")
    parser.add_argument("--stonith-timeout", type=int, default=60)
    parser.add_argument("--power-timeout", type=int, default=20)
    parser.add_argument("--snmp", action="store_true", help="agents on the switches also in a stock run")
    parser.add_argument("--arbiter", choices=REACHES, default="in-band")
    parser.add_argument("--power", choices=REACHES, default="in-band", help="how the power controllers are reached")
    parser.add_argument("--rings", type=int, choices=(1, 2), default=1, help="2: a second corosync link out-of-band")
    parser.add_argument(
        "--ports-stay-up", action="store_true", help="a node without power keeps its link, as a hung kernel does"
    )
    parser.add_argument("--watch", type=float, default=14.0, help="seconds watched after the thaw")
    parser.add_argument("--restore", action="store_true", help="bring the lost switch back 2 s after an stp thaw")
    parser.add_argument("--quiet", action="store_true", help="only the table")
    parser.add_argument("--out", type=Path, default=Path("build/lab/last"))
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
