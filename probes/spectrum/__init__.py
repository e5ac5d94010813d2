"""Power spectra of images and latents."""
