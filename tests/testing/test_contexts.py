"""Contexts for actors that are tested as plain functions."""

import pytest
import trio

import trepid
from trepid.testing import make_context, open_test_connection


async def bill(ctx: trepid.Context[dict[str, int]], customer: str) -> int:
    ctx.nursery.start_soon(trio.sleep, 1)
    await ctx.connection.enqueue(trepid.Job("mail", args=(customer,)))
    return ctx.resources[customer] * ctx.attempt


async def test_an_actor_is_called_as_the_function_it_is(autojump_clock):
    async with open_test_connection() as desk, trio.open_nursery() as nursery:
        await desk.declare("default")
        ctx = make_context(attempt=2, resources={"Ann": 7}, nursery=nursery, connection=desk)
        assert await bill(ctx, "Ann") == 14
        assert (await desk.stats()).ready == 1


def test_what_the_context_was_not_given_it_does_not_make_up():
    ctx = make_context()
    assert (ctx.attempt, ctx.resources, ctx.stopping) == (1, None, False)
    assert ctx.job.name == "job"
    with pytest.raises(RuntimeError, match="without a nursery"):
        _ = ctx.nursery
    with pytest.raises(RuntimeError, match="without a connection"):
        _ = ctx.connection


def test_all_of_it_can_be_given():
    job = trepid.Job("bill", args=("Ann",), headers={"trace": "4bf9"})
    ctx = make_context(job, stopping=True)
    assert ctx.job is job
    assert ctx.stopping
    assert isinstance(ctx, trepid.Context)
