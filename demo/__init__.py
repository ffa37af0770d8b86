"""Trepid at work: index the text files of a directory.  Start it with ``python -m demo``."""
