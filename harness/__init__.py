"""What runs a model and keeps what came out: spec, plan, models, generation, images, the run."""

__version__ = "0.2.0"
