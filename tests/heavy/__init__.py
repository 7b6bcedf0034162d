"""The router in front of real front ends and engines, each in an environment of its own; see `docs`."""
