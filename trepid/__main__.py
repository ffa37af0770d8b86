"""``python -m trepid`` is the command ``trepid``."""

from trepid.cli import main

main()
