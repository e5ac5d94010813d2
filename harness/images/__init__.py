"""Images made elsewhere, and the prompts that travel with them."""
