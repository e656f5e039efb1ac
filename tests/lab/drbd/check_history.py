#!/usr/bin/python3
"""Judges a run: were acknowledged writes lost, how long was nothing acknowledged, did the two nodes run apart?

`--node NAME:PREFIX:WRITER_LOG` for each node (PREFIX as `disk` in the configuration; a missing log is a node that
never wrote). The survivor, unless named, is the node that acknowledged last. Laws:
1. An acknowledged record is lost if the survivor does not hold exactly that record.
2. Split brain: a node's log says that it was detected, or the stored generations say that a handshake would, or one
   record's number was acknowledged with two contents, or both nodes acknowledged in turn without an `open` between.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from disk import Disk, part
from handshake import Side, uuid_compare


@dataclass(slots=True)
class Node:
    """What one node left behind. `writes`: (ns, block, hash)."""

    name: str
    disk: Disk
    said_split: bool
    writes: list[tuple[int, int, str]] = field(default_factory=list)
    opens: list[int] = field(default_factory=list)


def read(argument: str) -> Node:
    """Parses one --node and reads its files. Raises ValueError or OSError."""
    name, prefix, log = argument.split(":")
    disk = Disk.open(Path(prefix))
    disk.close()
    kernel = part(Path(prefix), "log")
    node = Node(name, disk, kernel.exists() and "Split-Brain detected" in kernel.read_text())
    for line in Path(log).read_text().splitlines() if Path(log).exists() else []:
        words = line.split()
        if words[:2] == ["#", "open"] and len(words) == 4:
            node.opens.append(int(words[3]))
        elif len(words) == 3:
            node.writes.append((int(words[2]), int(words[0]), words[1]))
    return node


def judge(nodes: list[Node], survivor: str | None) -> dict[str, object]:
    """The verdict, as the JSON that is printed."""
    everything = sorted((ns, block, mark, node.name) for node in nodes for ns, block, mark in node.writes)
    last = everything[-1][3] if everything else nodes[0].name
    kept = next(node for node in nodes if node.name == (survivor or last))
    lost = [block for _, block, mark, _ in everything if kept.disk.blocks.get(block) != mark]
    gaps = [(later[0] - first[0], first[0]) for first, later in pairwise(everything)]
    gap, gap_at = max(gaps, default=(0, 0))
    why = split_brain(nodes, everything)
    return {
        "survivor": kept.name,
        "acknowledged": len(everything),
        "lost": len(lost),
        "lost_blocks": lost[:10],
        "longest_gap_s": round(gap / 1e9, 3),
        "longest_gap_from_boottime_ns": gap_at,
        "last_acknowledged_boottime_ns": everything[-1][0] if everything else 0,
        "split_brain": bool(why),
        "why": why,
    }


def split_brain(nodes: list[Node], everything: list[tuple[int, int, str, str]]) -> list[str]:
    """Every sign of it; empty = none."""
    why = [f"{node.name} logged it" for node in nodes if node.said_split]
    if len(nodes) == 2:
        sides = [Side(tuple(node.disk.meta.uuids()), "UpToDate", "", False, False) for node in nodes]  # type: ignore[arg-type]
        verdict, rule = uuid_compare(*sides, tie_breaker=False)
        if abs(verdict) >= 100:
            why.append(f"generations: uuid_compare()={verdict} by rule {rule}")
    contents: dict[int, set[str]] = {}
    for _, block, mark, _ in everything:
        contents.setdefault(block, set()).add(mark)
    if twice := [block for block, marks in contents.items() if len(marks) > 1]:
        why.append(f"records acknowledged twice with different content: {twice[:5]}")
    opens = {node.name: node.opens for node in nodes}
    for first, later in pairwise(everything):
        if first[3] != later[3] and not any(first[0] <= ns <= later[0] for ns in opens[later[3]]):
            why.append(f"both nodes acknowledged writes around {first[0]} ns")
            break
    return why


def main() -> int:
    """Exit 0: nothing lost, no split brain; 1 otherwise; 2 if something cannot be read."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--node", action="append", required=True, metavar="NAME:PREFIX:WRITER_LOG")
    options.add_argument("--survivor")
    chosen = options.parse_args()
    try:
        verdict = judge([read(argument) for argument in chosen.node], chosen.survivor)
    except (OSError, ValueError, StopIteration) as error:
        print(f"cannot read the run: {error}", file=sys.stderr)
        return 2
    print(json.dumps(verdict, indent=1))
    return 1 if verdict["lost"] or verdict["split_brain"] else 0


if __name__ == "__main__":
    sys.exit(main())
