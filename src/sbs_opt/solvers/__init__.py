"""How a window is solved: one protocol, one table of solvers, kernels, lower bounds, exact back ends."""
