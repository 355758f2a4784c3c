"""``python -m runtime`` is ``sotto``."""

from runtime.cli import main

main()
