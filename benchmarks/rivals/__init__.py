"""How each rival takes a training step of the papers' network: one file a rival, written as its users write it."""
