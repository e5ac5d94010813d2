"""What attention is told by: words, the tokens that are none, and how overlap is counted."""

START, END = "<start>", "<end>"
"""The start token; the end token and the padding behind it."""
TOP = 0.25
"""Overlap is counted on the quarter of the pixels that a word's map holds highest."""
CHANCE_OVERLAP = TOP / (2 - TOP)
"""IoU of two independent random quarters of many pixels: 1/7."""
