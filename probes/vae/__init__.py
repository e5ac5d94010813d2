"""What a VAE changes in images, and which groups it affects more."""
