"""Records: what an engine promises that lends its memory to engines without one."""

from __future__ import annotations

from collections import Counter

import trio

from trepid.ports.records import Claim, Drop, Read, Records, Step, Write
from trepid.testing.conformance.report import same
from trepid.testing.conformance.world import DAY, LONG, QUEUE, World, case
from trepid.values.unique import Unique

_KEYS = (
    "k",
    "q/m",
    "K",
    "'; DROP TABLE records; --",
    "{x}*>%_?[a]",
    "\N{SNOWMAN}\N{GRINNING FACE}",
    " ",
    "\n\t",
    '"\\',
    "x" * 1000,
)
_VALUES = (b"", b"{}", bytes(range(256)), b"\0" * 5, b"x" * (2 * 1_048_576))


async def _do(records: Records, *steps: Step) -> list[bytes | None]:
    return await records.carry_out(steps)


@case("records")
async def a_claim_takes_only_what_is_free(world: World) -> None:
    """The first claim stands; whoever comes later learns its value, and changes nothing."""
    records = world.session.records
    same("the first claim", await _do(records, Claim("k", b"mine", LONG)), [None])
    same("another", await _do(records, Claim("k", b"yours", LONG)), [b"mine"])
    same("the first again", await _do(records, Claim("k", b"mine", LONG)), [b"mine"])
    same("what is there", await _do(records, Read("k"), Read("other")), [b"mine", None])


@case("records")
async def a_write_replaces(world: World) -> None:
    """A write is made in any case, or only in place of what it names; the reply is what was there."""
    records = world.session.records
    same("where nothing was", await _do(records, Write("k", b"1", LONG)), [None])
    same("where something was", await _do(records, Write("k", b"2", LONG)), [b"1"])
    same("instead of what is there", await _do(records, Write("k", b"3", LONG, b"2")), [b"2"])
    same("instead of what is gone", await _do(records, Write("k", b"4", LONG, b"2")), [b"3"])
    same("instead of what never was", await _do(records, Write("other", b"5", LONG, b"2")), [None])
    same("instead of the empty value", await _do(records, Write("other", b"5", LONG, b"")), [None])
    same("in the end", await _do(records, Read("k"), Read("other")), [b"3", None])


@case("records")
async def a_drop_removes(world: World) -> None:
    """A drop is made in any case, or only of what it names; nothing is left behind."""
    records = world.session.records
    await _do(records, Write("k", b"1", LONG), Write("l", b"1", None))
    same("of something else", await _do(records, Drop("k", b"2")), [b"1"])
    same("of what is there", await _do(records, Drop("k", b"1")), [b"1"])
    same("again", await _do(records, Drop("k", b"1")), [None])
    same("in any case", await _do(records, Drop("l"), Drop("l")), [b"1", None])
    same("in the end", await _do(records, Read("k"), Claim("l", b"2", LONG)), [None, None])


@case("records")
async def steps_see_those_before_them(world: World) -> None:
    """Within a call, steps go in order; no steps, no replies."""
    records = world.session.records
    got = await _do(
        records,
        Read("k"),
        Claim("k", b"1", LONG),
        Claim("k", b"2", LONG),
        Write("k", b"3", LONG, b"1"),
        Drop("k", b"1"),
        Read("k"),
        Drop("k"),
        Claim("k", b"4", None),
        Read("k"),
    )
    same("replies", got, [None, None, b"1", b"1", b"3", b"3", b"3", None, b"4"])
    same("without steps", await _do(records), [])


@case("records")
async def any_text_is_a_key_and_any_bytes_a_value(world: World) -> None:
    """What means something to the engine's language means nothing in here, and nothing is too long that is allowed."""
    records = world.session.records
    await _do(records, *(Write(key, key.encode(), LONG) for key in _KEYS))
    same("values by key", await _do(records, *map(Read, _KEYS)), [key.encode() for key in _KEYS])
    await _do(records, *(Claim(f"v{number}", value, LONG) for number, value in enumerate(_VALUES)))
    for number, value in enumerate(_VALUES):
        (got,) = await _do(records, Read(f"v{number}"))
        same(f"value {number} as it was", got == value, True)


@case("records")
async def what_has_expired_is_not_there(world: World) -> None:
    """A value is there for its time, by the engine's clock, and for no step after it; each write begins it anew."""
    records = world.session.records
    brief = 4 * world.tick
    await _do(
        records, *(Write(key, b"1", brief) for key in "abcd"), Write("long", b"1", LONG), Claim("ever", b"1", None)
    )
    await world.pass_time(brief / 2)
    same("half of the time later", await _do(records, *map(Read, "abcd")), [b"1"] * 4)
    await _do(records, Write("d", b"2", brief))
    await world.pass_time(brief / 2 + world.tick)
    got = await _do(
        records,
        Read("a"),
        Claim("a", b"2", LONG),
        Write("b", b"2", LONG, b"1"),
        Drop("c", b"1"),
        Read("b"),
        Read("d"),
        Read("long"),
        Read("ever"),
    )
    same("after its time", got, [None, None, None, None, None, b"2", b"1", b"1"])


@case("records", hours=True)
async def a_value_without_a_time_stays(world: World) -> None:
    """Long times are kept, and what has none stays; reaping changes nothing of it."""
    records = world.session.records
    await _do(records, Write("year", b"1", 365 * DAY), Write("ever", b"1", None), Write("brief", b"1", 1.0))
    await world.pass_time(364 * DAY)
    await world.session.reap()
    same("in a year", await _do(records, Read("year"), Read("ever"), Read("brief")), [b"1", b"1", None])
    await world.pass_time(2 * DAY)
    same("and a day", await _do(records, Read("year"), Read("ever")), [None, b"1"])


@case("records")
async def records_outlive_a_session(world: World) -> None:
    """Closed and opened again, the engine has the same values; and all sessions share them."""
    other = await world.other_session()
    await _do(world.session.records, Claim("k", b"1", LONG))
    same("elsewhere", await _do(other.records, Claim("k", b"2", LONG)), [b"1"])
    await world.reopen()
    same("later", await _do(world.session.records, Read("k")), [b"1"])


@case("records")
async def one_of_many_claims_wins(world: World) -> None:
    """Of many who claim or exchange at the same time, exactly one is told that it has."""
    other = await world.other_session()
    sessions = (world.session, other)
    claims, exchanges, drops = Counter[bytes | None](), Counter[bytes | None](), Counter[bytes | None]()

    async def claim(number: int) -> None:
        claims.update(await _do(sessions[number % 2].records, Claim("k", b"%d" % number, LONG)))

    async def exchange(number: int) -> None:
        exchanges.update(await _do(sessions[number % 2].records, Write("l", b"%d" % number, LONG, b"old")))

    async def drop(number: int) -> None:
        drops.update(await _do(sessions[number % 2].records, Drop("m", b"old")))

    await _do(world.session.records, Write("l", b"old", LONG), Write("m", b"old", LONG))
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(claim, number)
            nursery.start_soon(exchange, number)
            nursery.start_soon(drop, number)
    same("claims that found nothing", claims[None], 1)
    same("winners that were named", len(claims), 2)
    same("exchanges that found the old value", exchanges[b"old"], 1)
    same("drops that found it", (drops[b"old"], drops[None]), (1, 19))


@case("records")
async def records_are_a_space_of_their_own(world: World) -> None:
    """No key meets a queue, a message or a unique key of the engine's own."""
    records = world.session.records
    await _do(records, *(Claim(key, b"1", LONG) for key in (QUEUE, "m", "unique", f"{QUEUE}/m")))
    await world.put("m", **({"unique": Unique("unique")} if world.session.capabilities.unique else {}))
    delivery = await world.take()
    same("values", await _do(records, *map(Read, (QUEUE, "m", "unique", f"{QUEUE}/m"))), [b"1"] * 4)
    await world.end(delivery)
    await world.session.delete(QUEUE)
    same("values, without the queue", await _do(records, Read(QUEUE), Read(f"{QUEUE}/m")), [b"1"] * 2)


@case("records")
async def many_values_take_their_place(world: World) -> None:
    """A thousand values in one call; those that have expired are cleared away in passing, and are no hindrance."""
    records = world.session.records
    keys = [f"k{number}" for number in range(1000)]
    same("claims", await _do(records, *(Claim(key, b"1", world.tick) for key in keys)), [None] * 1000)
    await world.pass_time(2 * world.tick)
    await world.session.reap()
    same("claims anew", await _do(records, *(Claim(key, b"2", LONG) for key in keys)), [None] * 1000)
    same("values", await _do(records, *map(Read, keys)), [b"2"] * 1000)
