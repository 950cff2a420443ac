"""Pictures of runs: curves, images, latent codes, each for a light and a dark page."""
