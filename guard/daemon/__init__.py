"""The shell of one node: it obeys core.machine and decides nothing."""
