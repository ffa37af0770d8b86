"""What whoever watches a job is told."""

from __future__ import annotations

from typing import Any, Generic, TypeAlias

import attrs
import outcome
from typing_extensions import TypeVar

from trepid.ports.messages import MessageView
from trepid.rules.life import State

T = TypeVar("T", default=Any, covariant=True)


@attrs.frozen
class StateChanged:
    """The message has moved on in its life; the first update says where it is.

    Attributes:
      id: which message; those of a chain have one each.
      state: where it is now.
      view: all that is known of it.  Where the engine shows no messages, there are no such updates.
    """

    id: str
    state: State
    view: MessageView = attrs.field(repr=False)


@attrs.frozen
class Progressed:
    """The job has told how far it is.  What came and went between two looks is left out.

    Attributes:
      id: which message.
      attempt: which attempt has told it; a later one may begin again.
      done, total: how much is done, and how much there is to do, or None.
      message: what is going on.
    """

    id: str
    attempt: int
    done: float
    total: float | None = None
    message: str = ""

    @property
    def fraction(self) -> float | None:
        """How much is done, from 0 to 1, or None if the total is not known."""
        return None if not self.total else min(1.0, self.done / self.total)


@attrs.frozen
class Emitted:
    """The job has emitted a value; none is left out.

    Attributes:
      id: which message.
      attempt: which attempt has emitted it.
      value: the value, as plain JSON.
    """

    id: str
    attempt: int
    value: Any


@attrs.frozen
class Ended(Generic[T]):
    """The job has ended.  The last update.

    Attributes:
      id: which message; of a chain, the step with which it ended.
      state: how: done, dead or cancelled.
      returned: what it returned, or why there is nothing to return.
    """

    id: str
    state: State
    returned: outcome.Outcome[T]

    @property
    def result(self) -> T:
        """What the job returned.

        Raises:
          JobFailedError, JobCancelledError, ResultError: as ``handle.result()`` does.
        """
        # Not unwrap(): that may be called once only.
        if isinstance(self.returned, outcome.Error):
            raise self.returned.error
        assert isinstance(self.returned, outcome.Value)
        value: T = self.returned.value
        return value


Update: TypeAlias = StateChanged | Progressed | Emitted | Ended[T]
