"""Sizes: what a server would not take is never sent, for it hangs up on who sends it."""

import pytest

from tests.brokers.nats.kit import DAY, publication, settle, take
from trepid.brokers.nats import NatsBroker
from trepid.errors import PayloadTooLargeError
from trepid.rules.life import Reply, State
from trepid.rules.verdicts import Done, Failed, Failure

LARGEST = 8192
LONG = Failure("ValueError", "oops" * 50, "frame\n" * 2000)


@pytest.fixture
async def session(own_nats):
    server = own_nats(options={"max_payload": "8KB"})
    async with NatsBroker(server.url).open() as session:
        await session.declare(["q"])
        yield session


async def largest_that_fits(session):
    with pytest.raises(PayloadTooLargeError) as caught:
        await session.publish([publication(payload=bytes(LARGEST))])
    size = caught.value.limit - 16  # times are written with more digits or fewer
    await session.publish([publication(payload=bytes(size))])
    return size


async def test_the_largest_message_there_is_can_fail_and_come_back(session):
    connection = session._office.jetstream.current
    size = await largest_that_fits(session)
    assert size > LARGEST - 1600
    for _ in range(2):
        (delivery,) = await take(session, wait=5.0)
        assert await settle(session, delivery, Failed(LONG, 0.01)) is Reply.APPLIED
    (delivery,) = await take(session, wait=5.0)
    assert await settle(session, delivery, Failed(LONG)) is Reply.APPLIED
    (view,) = (await session.peek("q", State.DEAD)).messages
    assert (view.error.type, view.error.attempt, len(view.payload)) == ("ValueError", 3, size)
    assert await session.requeue("q") == 1
    (delivery,) = await take(session, wait=5.0)
    assert len(delivery.payload) == size
    assert session._office.jetstream.current is connection


async def test_of_many_errors_those_are_kept_for_which_there_is_room(session):
    connection = session._office.jetstream.current
    await session.publish([publication()])
    for number in range(30):
        (delivery,) = await take(session, wait=5.0)
        error = Failure("ValueError", f"oops {number}", "frame\n" * 200)
        assert await settle(session, delivery, Failed(error, None if number == 29 else 0.01)) is Reply.APPLIED
    (view,) = (await session.peek("q", State.DEAD)).messages
    assert [each.message for each in view.errors] == [f"oops {number}" for number in range(25, 30)]
    assert all(each.traceback for each in view.errors)
    assert session._office.jetstream.current is connection


async def test_a_result_for_which_there_is_no_room_is_unreadable(session):
    connection = session._office.jetstream.current
    await session.publish([publication()])
    (delivery,) = await take(session)
    await settle(session, delivery, Failed(LONG, 0.01))
    (delivery,) = await take(session, wait=5.0)
    assert await settle(session, delivery, Done(bytes(LARGEST), DAY)) is Reply.APPLIED
    ending = await session.result("q", "m")
    assert (ending.state, ending.result) == (State.DONE, None)
    assert ending.unreadable == "it has 8,192 bytes, and the server takes no message of more than 8,192"
    assert session._office.jetstream.current is connection
