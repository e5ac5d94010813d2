"""Instruments whose weights come with an extra, so that they work offline.

Each module is an entry point of the group `diffusion_audit.instruments`, as another package's would
be. docs/instruments.md has their licences and limits.
"""
