"""Stories for the rehearsed world, each with what must come of it; run over many seeds.

`python -m guard.rehearsal.scenarios --seed 7 --runs 100` prints the seeds that fail with the end of their story.
"""

from __future__ import annotations

import sys
from guard.rehearsal.world import World

def calm(world):
    world.run(20)

if __name__ == "__main__":
    w = World(int(sys.argv[1]))
    calm(w)
    print("\n".join(w.story))
    print(w.why_not_whole(), w.whole())
