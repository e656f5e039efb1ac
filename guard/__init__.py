"""pairguard: a guard against fence races and split brain on pairs of file servers."""

__version__ = "0.1.0"
