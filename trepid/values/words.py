"""What foreign code has to say, as text that can be stored."""

LONGEST_MESSAGE = 2048


def words(said: object) -> str:
    """Return what an exception or a job has to say: readable whatever its own code does, and not endless."""
    try:
        text = str(said)
    except Exception as exc:  # noqa: BLE001 - a foreign __str__ may raise anything
        text = f"<its message cannot be read: {type(exc).__name__}>"
    return storable(text, LONGEST_MESSAGE)


def complaint(error: Exception) -> str:
    """Return what *error*, raised while a value was converted, says about that value."""
    if isinstance(error, (ValueError, TypeError, RecursionError)) and not isinstance(error, UnicodeError):
        return words(error)
    return f"{type(error).__name__}: {words(error)}"


def storable(text: str, longest: int) -> str:
    """Cut *text*, and make it storable: lone surrogates have no UTF-8."""
    short = text if len(text) <= longest else text[:longest] + "..."
    return short.encode("utf-8", "backslashreplace").decode("utf-8")


def checked_text(value: str, what: str) -> str:
    """Return *value* if it is text that every engine can store.

    Raises:
      TypeError: if it is no string.
      ValueError: if it has a lone surrogate.
    """
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a string, not {value!r}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{what} {value[:80]!r} cannot be written as UTF-8") from None
    return value
