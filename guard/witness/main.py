"""`pairguard-witness`: the arbiter of every pair of a site."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from guard import __version__
from guard.adapters.signals import until_told
from guard.errors import PairguardError, exit_code
from guard.settings import fragments, load_witness
from guard.witness.wiring import serve


def main(argv: Sequence[str] | None = None) -> int:
    """0 after an orderly stop; 89 if a person must mend settings, keys or the store; 75 to be started again; 87 if its
    term is over."""
    parser = argparse.ArgumentParser(prog="pairguard-witness", description=__doc__)
    parser.add_argument("--config", type=Path, help="this settings file alone")
    parser.add_argument("--version", action="version", version=f"pairguard {__version__}")
    asked = parser.parse_args(argv)
    try:
        settings, _ = load_witness([asked.config] if asked.config else fragments("witness"))
        return asyncio.run(until_told(serve(settings)))
    except PairguardError as error:
        print(f"pairguard-witness: {error}", file=sys.stderr)
        return exit_code(error)


if __name__ == "__main__":
    sys.exit(main())
