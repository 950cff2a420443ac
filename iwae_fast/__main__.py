"""``python -m iwae_fast``, the same as ``iwae-fast``."""

from .cli import main

main()
