"""From planned cells to latents and images."""
