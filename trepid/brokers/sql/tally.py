"""Counting what a session does."""

from __future__ import annotations

import attrs


@attrs.define(eq=False)
class Tally:
    """What an owner thread has done; written by the thread alone."""

    transactions: int = 0
    requests: int = 0
    largest_group: int = 0
    isolated: int = 0
    repeated: int = 0


@attrs.frozen
class Statistics:
    """What a session has done so far.

    Attributes:
      transactions: write transactions begun for requests.
      requests: requests carried by them.
      largest_group: the most requests that one transaction carried.
      isolated: groups that were run again because one request of them failed.
      busy_retries: how often others were in the way.
      rings: how often other sessions were woken.
      reads: requests that only looked.
    """

    transactions: int
    requests: int
    largest_group: int
    isolated: int
    busy_retries: int
    rings: int
    reads: int
