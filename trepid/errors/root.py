"""The root of all errors."""


class TrepidError(Exception):
    """The root of all errors raised by Trepid."""
