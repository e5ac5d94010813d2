"""Which of two arms people prefer, from blind pairs of one prompt and seed."""
