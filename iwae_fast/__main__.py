"""``python -m iwae_fast``, the same as ``iwae-fast``."""

from .experiments.cli import main

main()
