"""VAEs: files, identity, scale, and round trips through them."""
