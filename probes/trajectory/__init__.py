"""When an image is decided."""
