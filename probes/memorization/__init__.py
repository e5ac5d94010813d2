"""Signs that a prompt's images are memorized."""
