"""Simulated surroundings for the shipped code: the seeded world and the sandbox. Never reachable from settings."""
