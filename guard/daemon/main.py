"""`pairguardd`: the guard of one node."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from guard import __version__
from guard.adapters.signals import Hooks, until_told
from guard.daemon.wiring import serve
from guard.errors import PairguardError, exit_code
from guard.settings import GuardSettings, fragments, load_guard


def main(argv: Sequence[str] | None = None) -> int:
    """0 after an orderly stop; 89 if a person must mend settings, keys or the journal; 75 to be started again."""
    parser = argparse.ArgumentParser(prog="pairguardd", description=__doc__)
    parser.add_argument("--config", type=Path, help="this settings file alone")
    parser.add_argument("--version", action="version", version=f"pairguard {__version__}")
    asked = parser.parse_args(argv)
    hooks = Hooks()

    def read() -> GuardSettings:
        return load_guard([asked.config] if asked.config else fragments("pairguard"))[0]

    try:
        return asyncio.run(until_told(serve(read(), hooks, read), hooks))
    except PairguardError as error:
        print(f"pairguardd: {error}", file=sys.stderr)
        return exit_code(error)


if __name__ == "__main__":
    sys.exit(main())
