"""A node whose DRBD tools answer from captures: a second implementation of the program runner."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from guard.adapters.process import OUTPUT_BYTES_MAX, Ran
from guard.errors import Unavailable

CAPTURES = Path(__file__).parent.parent / "captures" / "drbd"
STATES = sorted(path.name.removesuffix(".status.txt") for path in CAPTURES.glob("*.status.txt"))
STATUS = "drbdsetup status r0 --verbose --statistics"


def answers(name: str) -> dict[str, Ran]:
    """The answers in one capture file by command; stderr was recorded into the output."""
    text = (CAPTURES / name).read_text()
    found = re.finditer(r"^\$ (.*)\n((?:.*\n)*?)\[rc=(\d+)\]$", text, re.MULTILINE)
    return {one[1]: Ran(int(one[3]), one[2], "") for one in found}


def proc_drbd(state: str) -> str:
    kind = "state" if state.startswith("f") else "proc-drbd"
    return answers(f"{state}.{kind}.txt")["cat /proc/drbd"].out


@dataclass
class CaptureNode:
    """Answers by command line; an unknown command is a missing program. `batches` feed the event stream."""

    known: dict[str, Ran] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    batches: asyncio.Queue[tuple[str, ...] | None] = field(default_factory=asyncio.Queue)
    streams: int = 0
    obeys: bool = True  # suspend-io and resume-io show in the next status

    @classmethod
    def of(cls, state: str) -> CaptureNode:
        """The node as it was in one captured state, under a configuration whose gate is closed."""
        config = answers("config.nodeA.dump.txt") | answers("config.nodeA.show.txt") | answers("config.nodeA.plan.txt")
        node = cls(config | answers(f"{state}.status.txt"))
        gi = answers(f"{state}.get-gi.txt")["drbdadm get-gi r0"]
        node.known["drbdsetup get-gi 0"] = gi
        node.known["drbdmeta --force 0 v08 /dev/vda internal get-gi"] = gi
        return node

    def put(self, command: str, out: str, code: int = 0) -> None:
        self.known[command] = Ran(code, out, "")

    async def run(
        self,
        argv: Sequence[str],
        *,
        deadline_s: float,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        output_max: int = OUTPUT_BYTES_MAX,
    ) -> Ran:
        command = " ".join(argv)
        self.asked.append(command)
        if argv[:2] in (("drbdsetup", "suspend-io"), ("drbdsetup", "resume-io")):
            self._hand(argv[1])
            return Ran(0, "", "")
        if command not in self.known:
            raise Unavailable(f"cannot run {command}", "not in this capture")
        return self.known[command]

    async def lines(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None
    ) -> AsyncGenerator[tuple[str, ...], None]:
        """Batches until None, which is the child's death."""
        self.streams += 1
        while (batch := await self.batches.get()) is not None:
            yield batch

    def _hand(self, command: str) -> None:
        if not self.obeys:
            return
        old = self.known[STATUS]
        reasons = set(re.findall(r"suspended:(\S+)", old.out.split("\n")[0])[0].split(",")) - {"no", "user"}
        reasons |= {"user"} if command == "suspend-io" else set()
        said = ",".join(sorted(reasons, reverse=True)) or "no"
        self.known[STATUS] = Ran(0, re.sub(r" suspended:\S+", f" suspended:{said}", old.out, count=1), "")
