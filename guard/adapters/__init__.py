"""One module per thing outside the guard; each is a watcher (it sees) or a hand (it does)."""
