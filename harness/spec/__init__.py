"""The spec: what is audited, its prompts and its attributes."""
