"""Statistics that no library has: pure functions of arrays and tables."""
