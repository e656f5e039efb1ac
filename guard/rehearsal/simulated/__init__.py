"""Simulated machines, links, disks, cluster and power in real time: what the sandbox has instead of the real ones."""
