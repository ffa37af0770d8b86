"""The RabbitMQ engine on a healthy server: what the conformance suite does not ask."""

from functools import partial
from types import SimpleNamespace

import pytest
import trio
from msgspec.structs import replace
from pamqp import commands

import trepid
from tests.brokers.rabbitmq.tools import OOPS, demolish, new_url, opened, publication, put, settle, take
from trepid.brokers.rabbitmq import RabbitMQBroker, moving
from trepid.brokers.rabbitmq.address import address_of
from trepid.brokers.rabbitmq.clock import CLOCK
from trepid.brokers.rabbitmq.passport import Passport
from trepid.brokers.rabbitmq.stock import Item
from trepid.brokers.rabbitmq.topology import RUNG, Names, steps
from trepid.errors import BrokerRefusedError, UnsupportedError
from trepid.ports.messages import Settlement
from trepid.rules.life import Reply, State
from trepid.rules.verdicts import Buried, Done, Failed, Failure, Returned, Withdrawn
from trepid.testing.conformance import CASES
from trepid.testing.conformance.cancellation import cancelled_at
from trepid.testing.conformance.world import open_world
from trepid.wire.amqp import Batch, open_amqp

pytestmark = pytest.mark.usefixtures("rabbitmq_server")
DONE = Done(b"1", 60)


@pytest.fixture
def url(rabbitmq_server):
    return new_url(rabbitmq_server.url)


@pytest.mark.parametrize(
    "name",
    [
        "an_extension_never_revives",
        "a_token_of_nobody_is_refused",
        "the_first_late_settlement_finds_an_expired_lease",
        "follow_ups_come_with_the_settlement",
    ],
)
async def test_within_one_session_a_lease_is_fenced(name, url):
    """The engine claims less, because other sessions know nothing of a lease; this one does."""
    (case,) = [case for case in CASES if case.name == name]
    urls = []

    def make():
        urls.append(f"{url}.{len(urls)}")
        return RabbitMQBroker(urls[-1])

    with trio.fail_after(60) as scope:
        async with open_world(make, trio.sleep, 0.3, scope) as world:
            await case.run(world)
        await demolish(*urls)


async def test_a_delay_of_thirty_days_is_stored_and_takes_its_way_down(url):
    async with opened(url) as session:
        assert await put(session, "later", delay=30 * 86_400.0) == ["accepted"]
        assert await take(session, wait=0) == []
        way = steps(30 * 86_400.0)
        assert sum(RUNG * 2**step for step in way) == 30 * 86_400.0
        lines = await session._supervisor.connection()
        waiting = {}
        for step in way:
            name = lines.names.wait(step)
            answer = await lines.apart(partial(_call, commands.Queue.Declare(queue=name, passive=True)))
            waiting[step] = answer.message_count
        assert waiting == {step: int(step == way[0]) for step in way}, "it waits at the first of its steps"


async def _call(method, channel):
    return await channel.call(method)


async def test_delays_come_down_the_ladder_never_early_and_soon(url):
    async with opened(url) as session:
        delays = [0.05, 0.3, 0.8, 1.1, 1.7, 2.3]
        for number, delay in enumerate(delays):
            await put(session, f"m{number}", delay=delay)
        got = []
        with trio.fail_after(15):
            while len(got) < len(delays):
                got += await take(session)
        assert [each.id for each in got] == [f"m{number}" for number in range(len(delays))]
        late = [each.leased - each.due for each in got]
        assert min(late) >= 0
        assert max(late) < 2


async def test_what_was_pushed_and_not_leased_is_given_back_uncounted(url):
    """A worker whose slots are full keeps nothing from others."""
    async with opened(url) as session, RabbitMQBroker(url).open() as other:
        async with trio.open_nursery() as nursery:
            got = []

            async def lease(limit):
                got.extend(await take(session, limit))

            nursery.start_soon(lease, 50)
            await trio.sleep(0.3)
            await put(session, *(f"m{number}" for number in range(40)))
        await trio.sleep(0.1)
        rest = len(session._depot.taps["q"].stock)
        assert len(got) + rest == 40
        # Whatever waits here unasked for is given back after a while, and then it is there for others.
        for delivery in got:
            await settle(session, delivery, Returned())
        again = []
        with trio.fail_after(10):
            while len(again) < 40:
                again += await take(other, 100, owner="other")
        assert {each.id for each in again} == {f"m{number}" for number in range(40)}
        assert {(each.crashes, each.failures) for each in again} == {(0, 0)}
        for each in again:
            assert await settle(other, each, DONE) == "applied"


async def test_urgent_messages_come_first_where_one_fetches(url):
    async with opened(url) as session:
        for number, priority in enumerate((0, 5, 9, 5, 0, 9)):
            await put(session, f"m{number}", priority=priority)
        assert [each.id for each in await take(session, 6)] == ["m2", "m5", "m1", "m3", "m0", "m4"]


async def test_what_has_expired_hides_nothing_behind_it(url):
    async with opened(url) as session:
        await put(session, *(f"old{number}" for number in range(5)), ttl=0.1)
        await trio.sleep(0.2)
        await put(session, "m")
        assert [delivery.id for delivery in await take(session, 1, wait=0)] == ["m"]


async def test_a_large_payload_is_cut_into_frames(url):
    async with opened(url) as session:
        payload = bytes(range(256)) * 4096
        await put(session, "large", payload=payload)
        (delivery,) = await take(session)
        assert delivery.payload == payload


async def test_a_long_history_keeps_the_latest_errors(url):
    async with opened(url) as session:
        await put(session)
        for number in range(8):
            (delivery,) = await take(session)
            error = Failure("ValueError", f"no. {number}", "x" * 16_000)
            assert await settle(session, delivery, Failed(error, delay=0)) == "applied"
        (delivery,) = await take(session)
        assert delivery.failures == 8
        (lease,) = session._depot.book.leases()
        kept = [error.message for error in lease.message.passport.errors]
        assert kept == [f"no. {number}" for number in range(8 - len(kept), 8)]
        assert len(kept) >= 3


async def test_a_message_that_is_not_ours_is_buried(url):
    from trepid.wire.amqp import Batch
    from trepid.wire.reply import Reply

    async with opened(url) as session:
        lines = await session._supervisor.connection()
        through = Reply()
        batch = Batch(lambda batch, error: through.set(error))
        lines.out.publish(("", lines.names.ready("q", "medium")), b"\x10\x00\x02", b"foreign", batch, 0)
        batch.seal()
        assert await through.wait() is None
        await put(session, "ours")
        assert [each.id for each in await take(session)] == ["ours"]
        with trio.fail_after(5):
            while (await session.stats("q")).dead != 1:
                await trio.sleep(0.02)


async def test_dead_letters_come_back_and_can_be_purged(url):
    async with opened(url) as session:
        await put(session, "a", "b", "c")
        for delivery in await take(session):
            await settle(session, delivery, Buried(OOPS))
        assert (await session.stats("q")).dead == 3
        assert await session.purge("q", [State.DEAD], ["b"]) == 1
        assert await session.requeue("q") == 2
        assert sorted(each.id for each in await take(session)) == ["a", "c"]
        assert await session.purge("q", [State.DEAD]) == 0


async def test_a_cancelled_operation_leaves_the_next_its_own_answer(url):
    async with opened(url) as session:
        for moment in range(12):
            batch = [publication(f"m{moment}"), publication(f"n{moment}")]
            await cancelled_at(moment, partial(session.publish, batch))
            nowhere = await session.publish([publication("x", queue="nowhere")])
            assert [each.outcome.value for each in nowhere] == ["no queue"]
            assert await put(session, f"after{moment}") == ["accepted"]
        got = []
        while more := await take(session, 100, wait=0.3):
            got += more
        assert {f"after{moment}" for moment in range(12)} <= {each.id for each in got}
        for moment, delivery in enumerate(got[:12]):
            _, _ = await cancelled_at(moment, partial(settle, session, delivery, DONE))
            # Whether it was sent or not: repeated, it is applied once, and then recognised.
            assert await settle(session, delivery, DONE) in ("applied", "repeated")
            assert await settle(session, delivery, DONE) == "repeated"
        assert await take(session, 100, wait=0) == []


async def test_a_lease_call_that_is_cancelled_loses_no_message(url):
    async with opened(url) as session:
        for moment in range(12):
            await put(session, "m")
            got = []

            async def lease(got=got):
                got.extend(await take(session, 1, wait=3))

            await cancelled_at(moment, lease)
            got = got or await take(session)
            assert [each.id for each in got] == ["m"], moment
            assert await settle(session, got[0], DONE) == "applied"


async def test_settlements_of_one_batch_are_answered_in_order(url):
    async with opened(url) as session:
        await put(session, *(f"m{number}" for number in range(20)))
        got = await take(session, 20, wait=0)
        verdicts = [DONE, Failed(OOPS, delay=60), Failed(OOPS), Returned()]
        batch = [Settlement(each.ref, verdicts[number % 4]) for number, each in enumerate(got)]
        batch.insert(5, Settlement(replace(got[0].ref, token=(1, 1)), DONE))
        replies = [each.value for each in await session.settle(batch)]
        assert replies == ["applied"] * 5 + ["superseded"] + ["applied"] * 15
        stats = await session.stats("q")
        assert (stats.ready, stats.leased, stats.dead) == (5, 0, 5)


async def test_a_queue_that_was_deleted_elsewhere_takes_nothing(url):
    async with opened(url) as session, RabbitMQBroker(url).open() as other:
        await put(other, "kept")
        await session.delete("q")
        assert await put(other, "lost") == ["no queue"]
        assert await take(other, wait=0) == []
        await session.declare(["q"])
        assert await put(other, "again") == ["accepted"]
        assert [each.id for each in await take(other)] == ["again"]


async def test_who_waits_for_a_queue_that_is_declared_later_gets_its_messages(url):
    async with opened(url) as session, RabbitMQBroker(url).open() as other, trio.open_nursery() as nursery:
        got = []

        async def lease():
            got.extend(await take(session, queues=["later"], wait=10))

        nursery.start_soon(lease)
        await trio.sleep(0.2)
        await other.declare(["later"])
        await put(other, "m", queue="later")
        with trio.fail_after(5):
            while not got:
                await trio.sleep(0.01)


async def test_what_is_lacking_names_the_way_out(url):
    async with opened(url) as session:
        with pytest.raises(UnsupportedError, match="results='redis"):
            await session.result("q", "m")
        with pytest.raises(UnsupportedError, match="results='redis"):
            await session.cancel("q", ["m"], "no")
        with pytest.raises(UnsupportedError, match="results='redis"):
            await session.publish([publication(unique=trepid.Unique("k"))])
        with pytest.raises(UnsupportedError, match="ladder"):
            await session.purge("q", [State.READY, State.SCHEDULED])


async def test_proof_and_name_say_no_password(url):
    broker = RabbitMQBroker(url)
    assert "guest" not in str(broker)
    assert "guest" not in repr(broker)
    async with opened(url) as session:
        assert "quorum" in session.capabilities.durability_proof
        assert session.capabilities.engine.startswith("RabbitMQ 3.")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [(("guest:guest", "guest:wrong"), "403"), (("?", "/nowhere?"), "530")],
)
async def test_a_server_that_does_not_want_us_is_told_from_one_that_is_away(url, change, complaint):
    with pytest.raises(BrokerRefusedError, match=complaint) as caught:
        async with RabbitMQBroker(url.replace(*change)).open():
            pytest.fail("it was opened")
    assert "wrong" not in str(caught.value)
    assert "guest" not in str(caught.value)


async def test_a_worker_runs_jobs(url):
    done = []

    async def greet(name: str) -> None:
        done.append(name)
        if name == "again" and done.count(name) < 3:
            raise ValueError(name)

    actor = trepid.Actor(greet, retries=3, retry_policy=lambda number: 0.1)
    try:
        async with trepid.open_connection(url) as connection:
            await connection.declare("default")
            await connection.enqueue_many([actor.job(f"n{number}") for number in range(100)])
            await connection.enqueue(actor.job("again"))
            with trio.fail_after(30):
                report = await trepid.Worker(actor, messages_limit=103, lease=5).run(connection)
        assert report.processed == 103
        assert sorted(done) == sorted([*(f"n{number}" for number in range(100)), *["again"] * 3])
    finally:
        with trio.move_on_after(15, shield=True):
            await demolish(url)


async def test_what_comes_back_several_times_has_crashed_once(url):
    """Whoever got it again and died had not started it: what comes back is copied before it is leased."""
    async with opened(url) as session:
        await put(session, "m", max_crashes=3)
        lines = await session._supervisor.connection()
        for _ in range(4):
            channel = await lines.consumer.channel()
            taken = []
            while not taken:
                await channel.get(lines.names.ready("q", "medium"), taken.append).wait()
            await channel.close()
        (delivery,) = await take(session)
        assert delivery.crashes == 1


async def test_a_queue_that_is_no_quorum_queue_is_noticed_when_it_is_declared(url):
    async with opened(url) as session:
        lines = await session._supervisor.connection()
        classic = [commands.Queue.Declare(queue=name, durable=True) for name in lines.names.all("classic")]
        for method in classic:
            await lines.apart(partial(_call, method))
        try:
            with pytest.raises(BrokerRefusedError, match="x-queue-type"):
                await session.declare(["classic"])
        finally:
            with trio.move_on_after(10, shield=True):
                for name in lines.names.all("classic"):
                    await lines.apart(partial(_call, commands.Queue.Delete(queue=name)))


async def test_a_mark_of_redelivery_alone_is_a_crash(url):
    """RabbitMQ 4.3 and later: a lost session does not add to the count of deliveries."""
    from trepid.brokers.rabbitmq.passport import HEADER
    from trepid.wire.amqp import Delivered
    from trepid.wire.amqp.frames import persistent

    async with opened(url) as session:
        lines = await session._supervisor.connection()
        tap = await session._depot.tap(lines, "q")
        now = await session.now()
        message = Delivered(1_000_000, "", True, "")
        message.properties = persistent(HEADER, Passport.of(publication("m"), 1, now).written())
        message.body = b"{}"
        session._depot.arrived(tap, message)
        (delivery,) = await take(session)
        assert (delivery.id, delivery.crashes, delivery.payload) == ("m", 1, b"{}")


async def test_the_way_of_a_message_that_is_due_at_a_moment_is_made_before_it_is_sent(url):
    """Time passes while the steps are made: by then others would do, which nobody has made."""
    async with opened(url) as session:
        brink = 63 * RUNG + 0.01
        for number in range(3):
            item = publication(f"m{number}", due=CLOCK.now() + 2**number * 64 * RUNG - 64 * RUNG + brink)
            assert [reply.outcome for reply in await session.publish([item])] == ["accepted"]


@pytest.mark.parametrize("fields", [{"delay": 0.4}, {"due": 0.4}], ids=["delay", "due"])
async def test_a_follow_up_may_wait(url, fields):
    async with opened(url) as session:
        await put(session)
        [delivery] = await take(session)
        if "due" in fields:
            fields = {"due": CLOCK.now() + fields["due"]}
        settlement = Settlement(delivery.ref, DONE)
        assert await session.settle([settlement], then=[publication("next", **fields)]) == [Reply.APPLIED]
        assert [each.id for each in await take(session)] == ["next"]


async def test_a_message_that_is_withdrawn_is_gone(url):
    """As where a worker of this engine alone comes upon the job of a nursery that has a second one."""
    async with opened(url) as session:
        await put(session)
        [delivery] = await take(session)
        assert await settle(session, delivery, Withdrawn(60.0, reason="deadline")) == "applied"
        stats = await session.stats("q")
        assert (stats.ready, stats.leased, stats.dead) == (0, 0, 0)


@pytest.mark.parametrize("refused", [True, False])
def test_a_step_is_acknowledged_only_if_what_follows_it_is_stored(refused):
    names, acknowledged, told, sent = Names("p"), [], [], []

    class Out:
        def publish(self, to, properties, payload, batch, index):
            sent.append((to, index))
            batch.expect()

    class Tap:
        queue = "q"
        ack = acknowledged.extend

    tap = Tap()
    moves = [
        moving.Move(
            Item(tap, tag, Passport.of(publication(), 1, 0.0), b""), None, done=lambda _, done: told.append(done)
        )
        for tag in (1, 2)
    ]
    batches = []
    lines = SimpleNamespace(names=names, out=Out(), known={"q"}, sealed=Passport.written)
    fresh = moving.Fresh.of(publication("next"), 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moving, "Batch", lambda done: batches.append(Batch(done)) or batches[0])
        moving.carry(lines, moves, lambda *said: told.append(said), [fresh])
    assert sent == [(names.home("q", "medium"), 2)]
    assert (acknowledged, told) == ([], [])
    if refused:
        batches[0].refused.add(2)
    batches[0].confirm()
    assert acknowledged == ([2] if refused else [1, 2])
    assert told == ([(1, None), False, True] if refused else [(0, None), True, True])


async def test_a_server_answers_our_close_also_after_its_own(rabbitmq_server):
    """On this it rests that the number of a channel that both close is free once, and not before."""
    address = address_of(rabbitmq_server.url)
    async with open_amqp(address.endpoint, address.login) as amqp:
        channel = await amqp.channel()
        channel.ask(commands.Queue.Declare(queue="nobody-has-made-it", passive=True))
        channel.abandon()
        with trio.fail_after(5):
            while (await amqp.channel()).number != channel.number:
                await trio.sleep(0.02)
        assert channel.error.code == 404


async def test_a_registry_that_is_removed_under_a_session_gets_its_names_back(url):
    async with opened(url) as session:
        assert await session.queues() == ["q"]
        lines = await session._supervisor.connection()
        await lines.apart(partial(_call, commands.Queue.Delete(queue=lines.names.registry)))
        await session.declare(["other"])
        async with RabbitMQBroker(url).open() as later:
            with trio.fail_after(10):
                while await later.queues() != ["other", "q"]:
                    await trio.sleep(0.1)


async def test_a_queue_that_the_registry_does_not_know_is_written_down_when_it_is_declared_again(url):
    address = address_of(url)
    async with RabbitMQBroker(url).open() as session:
        await session.declare(["q"])
    async with open_amqp(address.endpoint, address.login) as amqp:
        channel = await amqp.channel()
        await channel.call(commands.Queue.Delete(queue=address.names.registry))
    async with opened(url, "q") as session:
        assert await session.queues() == ["q"]
