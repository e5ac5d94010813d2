"""Checks of the instruments against what is known, beside those of `reference`."""
