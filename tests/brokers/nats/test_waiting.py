"""Who waits for messages for an hour: whatever happens meanwhile, what comes is noticed."""

import pytest
import trio

from tests.brokers.nats.kit import fresh_broker, publication, take
from trepid.brokers.nats import clerk, intake, pulling
from trepid.errors import BrokerLostError
from trepid.wire.nats.connection import NatsConnection

HOUR = 3600.0


@pytest.fixture
def hasty(monkeypatch):
    """Let looks, requests and clerks last for fractions of a second."""
    monkeypatch.setattr(intake, "_LONGEST_PULL", 0.2)
    monkeypatch.setattr(clerk, "_LONGEST_PULL", 0.2)
    monkeypatch.setattr(clerk, "_IDLE", 0.6)
    monkeypatch.setattr(pulling, "_SILENCE", 0.2)


async def test_what_is_delayed_comes_to_who_has_long_been_waiting(nats_server, hasty):
    async with fresh_broker(nats_server).open() as session:
        await session.declare(["q"])
        await session.publish([publication(delay=3.0)])
        with trio.fail_after(10):
            assert [each.id for each in await take(session, wait=HOUR)] == ["m"]


async def test_who_waits_has_another_clerk_when_one_fails(nats_server, hasty, monkeypatch):
    batch, failed = clerk.Clerk._batch, trio.Event()

    async def fail(each, wait):
        if wait is None or failed.is_set():
            return await batch(each, wait)
        await trio.lowlevel.checkpoint()
        failed.set()
        raise BrokerLostError("no answer within 5 s")

    monkeypatch.setattr(clerk.Clerk, "_batch", fail)
    async with fresh_broker(nats_server).open() as session:
        await session.declare(["q"])
        await session.publish([publication(delay=1.0)])
        with trio.fail_after(10):
            assert [each.id for each in await take(session, wait=HOUR)] == ["m"]
        assert failed.is_set()


async def test_a_request_that_the_server_has_forgotten_is_made_again(nats_server, hasty, monkeypatch):
    say, forgotten = NatsConnection.say, []

    def forget(connection, subject, payload=b"", **options):
        if ".MSG.NEXT." in subject and b"no_wait" not in payload and len(forgotten) < 3:
            forgotten.append(subject)  # the server that led this consumer is gone, and the request with it
        else:
            say(connection, subject, payload, **options)

    async with fresh_broker(nats_server).open() as session:
        await session.declare(["q"])
        monkeypatch.setattr(NatsConnection, "say", forget)
        assert await take(session, wait=1.5) == []
        assert len(forgotten) == 3
        # No look by itself: only a request that waits can tell of this one.
        monkeypatch.setattr(intake, "_LONGEST_PULL", HOUR)
        async with trio.open_nursery() as nursery:
            taken = []

            async def wait():
                taken.extend(await take(session, wait=HOUR))

            nursery.start_soon(wait)
            with trio.fail_after(5):
                while not any(caller.waiting for caller in session._intake._callers):
                    await trio.sleep(0.01)
                await session.publish([publication()])
                while not taken:
                    await trio.sleep(0.01)


async def test_a_queue_that_is_declared_while_somebody_waits_for_it(nats_server, hasty):
    broker = fresh_broker(nats_server)
    async with broker.open() as session, broker.open() as other, trio.open_nursery() as nursery:
        taken = []

        async def wait():
            taken.extend(await session.lease(["q", "late"], 1, 60.0, owner="me", wait=HOUR))

        await session.declare(["q"])
        nursery.start_soon(wait)
        with trio.fail_after(5):
            while not any(caller.waiting for caller in session._intake._callers):
                await trio.sleep(0.01)
            await other.declare(["late"])
            await other.publish([publication(queue="late")])
            while not taken:
                await trio.sleep(0.01)


async def test_who_waits_does_not_wait_for_a_new_clerk_that_has_much_to_do(nats_server, hasty, monkeypatch):
    """What comes meanwhile is nobody's lease yet, and the server would take it back."""
    caught_up, looks, busy = clerk.Clerk.caught_up, [], trio.Event()

    async def late(each):
        looks.append(each)
        if len(looks) > 1:
            busy.set()
            await trio.sleep_forever()
        await caught_up(each)

    monkeypatch.setattr(clerk.Clerk, "caught_up", late)
    async with fresh_broker(nats_server, ack_wait=1.0).open() as session, trio.open_nursery() as nursery:
        taken = []

        async def wait():
            taken.extend(await take(session, wait=HOUR))

        await session.declare(["q"])
        nursery.start_soon(wait)
        with trio.fail_after(5):
            await busy.wait()
            await session.publish([publication()])
            while not taken:
                await trio.sleep(0.01)
