"""What the suite has to say about a broker."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from trepid.errors import TrepidError


@attrs.define(eq=False)
class ConformanceError(TrepidError, AssertionError):
    """A broker breaks a promise of the port.

    Attributes:
      expectation: what was promised.
      happened: what the broker did instead.
      case: the case in which it showed; the suite fills it in.
    """

    expectation: str
    happened: str
    case: str = "?"

    def __str__(self) -> str:
        return f"{self.case}: expected {self.expectation}; but {self.happened}"


class LackingError(TrepidError):
    """A case needs what the broker does not claim to have; it ends here, and is reported so."""


@attrs.frozen
class Conformance:
    """The report about a broker that keeps every promise it makes.

    Attributes:
      engine: which one was examined.
      passed: the cases that it passed.
      unsupported: the cases that it need not pass, each with what is lacking, as its capabilities declare.
    """

    engine: str
    passed: tuple[str, ...]
    unsupported: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"{self.engine}: {len(self.passed)} cases passed, {len(self.unsupported)} unsupported"]
        lines += [f"  {name}: {lacking}" for name, lacking in self.unsupported.items()]
        return "\n".join(lines)


def same(expectation: str, happened: object, wanted: object) -> None:
    """Complain unless what *happened* equals what is *wanted*."""
    if happened != wanted:
        raise ConformanceError(f"{expectation}: {_short(wanted)}", f"got {_short(happened)}")


def holds(expectation: str, condition: object, happened: object) -> None:
    """Complain unless *condition* is true."""
    if not condition:
        raise ConformanceError(expectation, f"got {_short(happened)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 600 else f"{text[:600]}..."
