"""What can be read from noise, activations, latents and images."""
