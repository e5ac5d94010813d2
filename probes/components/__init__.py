"""Which component carries a difference between two checkpoints."""
