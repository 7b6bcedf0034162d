"""Fitting a hardware profile of the cost model from kernel tables and whole-pass measurements."""
