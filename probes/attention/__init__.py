"""Cross-attention by word."""
