"""For tests of code that uses sbs_opt: hypothesis strategies and brute-force oracles (extra: `testing`)."""
