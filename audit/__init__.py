"""The harness: from a spec to a plan, images, scores, findings and reports."""

__version__ = "0.2.0"
