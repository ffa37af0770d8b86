"""A function that runs in a process raises its verbs there; pickle carries them to the worker."""

import pickle
from datetime import timedelta

import pytest

import trepid


@pytest.mark.parametrize(
    "verb",
    [
        trepid.Retry(),
        trepid.Retry(3),
        trepid.Retry(timedelta(minutes=1), "the store is shut"),
        trepid.Retry(reason="the store is shut"),
        trepid.Snooze(5),
        trepid.Bury(),
        trepid.Bury("no such picture"),
    ],
    ids=repr,
)
def test_a_verb_arrives_as_it_was_raised(verb):
    arrived = pickle.loads(pickle.dumps(verb))
    assert type(arrived) is type(verb)
    assert vars(arrived) == vars(verb)
    assert str(arrived) == str(verb)
