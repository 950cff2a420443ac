"""Training steps of the papers' network by the rivals, one file per rival, written as its users would write it."""
