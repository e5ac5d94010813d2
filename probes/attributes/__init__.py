"""Attribute bias: shares, distances from a target, differences of arms, people's labels."""
