"""Built-in sets of prompts and attributes, as data."""
