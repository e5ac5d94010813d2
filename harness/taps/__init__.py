"""What is followed while images are made."""
