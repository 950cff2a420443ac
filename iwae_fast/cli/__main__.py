"""``python -m iwae_fast.cli``."""

from . import main

main()
