"""The gate: from two arms to a verdict."""
