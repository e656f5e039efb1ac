"""The stock pair's programs: no guard. Pacemaker's agent shoots at once, DRBD's handler waits for that shot.

The agent's command is one power cycle, which the controller carries out by itself, also if the shooter dies meanwhile.
(With `off` then `on`, the usual way, a pair that shot itself stays off until a person comes: this is the kinder case.)
"""

from __future__ import annotations

from guard.rehearsal.cluster import WAIT_S
from guard.rehearsal.simulated.pair import Machine, Shot

POLL_S = 0.1
HANDLER_S_MAX = 60.0  # crm-fence-peer.sh gives up too; DRBD stays frozen then


class StockPrograms:
    """`simulated.pair.Programs` of a pair that nobody guards."""

    def __init__(self) -> None:
        self._waiting: dict[str, Shot] = {}

    def boot(self, machine: Machine) -> None:
        machine.start_cluster()

    def fence(self, machine: Machine, request: str, action: str) -> None:
        # The fencer kills the agent after WAIT_S; what it has sent may still be in the network then.
        shot = machine.pair.shoot(machine, life_s=WAIT_S, cycle=action == "reboot")
        self._waiting[request] = shot
        machine.pair.tell(machine.title, f"shoots at {machine.peer.title}")

        def look() -> None:
            if request not in self._waiting:
                return
            if shot.done and machine.pair.reaches_device(machine):
                del self._waiting[request]
                machine.fence_answered(request, confirmed=True)
            else:
                machine.later(POLL_S, look)

        machine.later(POLL_S, look)

    def fence_peer(self, machine: Machine, job: str) -> None:
        started = machine.pair.now

        def look() -> None:
            if machine.cluster.fenced_peer:
                machine.handler_answered(job, 7)
            elif machine.pair.now - started > HANDLER_S_MAX * 1e9:
                machine.handler_answered(job, 1)
            else:
                machine.later(POLL_S, look)

        machine.later(POLL_S, look)

    def gone(self, machine: Machine, request: str) -> None:
        self._waiting.pop(request, None)

    def end(self, machine: Machine) -> None:
        """Its timers end with it: `Machine.later`."""
