"""Pictures of runs: curves, images and latent codes, in light and dark colors."""
