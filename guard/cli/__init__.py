"""The command line: one client of the daemon and the witness."""
