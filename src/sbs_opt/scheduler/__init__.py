"""When to dispatch: sans-IO schedulers. Time is an argument; there is no clock, no socket and no randomness here."""
