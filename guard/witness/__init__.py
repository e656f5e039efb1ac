"""The shell of the arbiter: one process, any number of pairs, with one SQLite file or a term of a store in etcd."""
