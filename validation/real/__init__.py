"""Small VAEs that were trained on real images, and photographs to send through them."""
