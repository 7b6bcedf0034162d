"""Driver 2: a real clock. Adapters move events in and commands out; they decide nothing."""
