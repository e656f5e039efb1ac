"""What is true and what follows from it: values in, values out. No clock, no I/O, no randomness."""
