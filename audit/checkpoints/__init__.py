"""Checkpoints as people have them: families, files, layouts, adapters."""
