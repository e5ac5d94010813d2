"""Simulations of intervals, tests and gates; each module prints its table: `python -m`."""
