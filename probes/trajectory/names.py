"""Names of the probe and of the kinds of cells that it asks for."""

PROBE = "steps"
PREDICTED = "predicted x0"
SWITCHED = "prompt switch"
