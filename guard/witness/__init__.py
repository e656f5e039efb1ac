"""The shell of the arbiter: one process, one SQLite file, any number of pairs."""
