"""Negative prompts and guidance as doses."""
