"""What jobs and callers say in words: whatever it is, it is kept readable, and no worker ends over it."""

import attrs
import pytest
import trio

import trepid
from trepid.ports.messages import Publication
from trepid.values.codec import LARGEST

STRANGE = "file \udcff"  # what Python makes of a file name that is not UTF-8


class SpeechlessError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


@attrs.frozen
class Choosy:
    size: int

    def __attrs_post_init__(self):
        raise {0: ValueError(STRANGE), 1: SpeechlessError(), 2: KeyError(STRANGE)}[self.size]


class OddBury(trepid.Bury):
    def __init__(self):
        super().__init__()
        self.reason = SpeechlessError()


def policy(number):
    raise SpeechlessError


RAISED = {
    "exception": lambda: ValueError(STRANGE),
    "speechless": SpeechlessError,
    "bury": lambda: trepid.Bury(STRANGE),
    "retry": lambda: trepid.Retry(0, STRANGE),
    "odd verb": OddBury,
    "long": lambda: trepid.Bury("x" * 2_000_000),
    "group": lambda: ExceptionGroup(STRANGE, [trepid.Bury(STRANGE), ValueError(STRANGE)]),
}


@pytest.fixture(params=["memory:", "sqlite:jobs.db"])
async def connection(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with trepid.open_connection(request.param) as connection:
        await connection.declare("default")
        yield connection


async def dead(connection, actor, job):
    """Run a job until it is dead, with a worker that must be able to run the next one."""
    letter = await connection.enqueue(job)
    with trio.fail_after(10):
        report = await trepid.Worker(actor, messages_limit=1).run(connection)
    assert report.dead == 1
    view = await letter.status()
    assert view.error.message.encode("utf-8")
    assert len(view.error.message) <= 2100
    with pytest.raises(trepid.JobFailedError):
        await letter.result()
    return view.error


@pytest.mark.parametrize("what", RAISED)
async def test_whatever_a_job_raises_can_be_kept(connection, what):
    async def job():
        await trio.lowlevel.checkpoint()
        error = RAISED[what]()
        raise error

    error = await dead(connection, actor := trepid.Actor(job), actor.job())
    assert error.message.startswith(("file \\udcff", "<its message cannot be read: RuntimeError>", "xxx"))


async def test_whatever_a_retry_policy_raises_can_be_kept(connection):
    async def job():
        await trio.lowlevel.checkpoint()
        raise OSError("no mail")

    actor = trepid.Actor(job, retries=1, retry_policy=policy)
    handle = await connection.enqueue(actor.job())
    report = await trepid.Worker(actor, messages_limit=1).run(connection)
    assert report.retried == 1
    assert "no mail (the retry policy failed: SpeechlessError: <" in (await handle.status()).error.message


@pytest.mark.parametrize("size", [0, 1, 2])
async def test_arguments_whose_own_code_fails_do_not_fit(connection, size):
    async def job(choosy: Choosy):
        await trio.lowlevel.checkpoint()

    error = await dead(connection, trepid.Actor(job), trepid.Job("job", args=({"size": size},)))
    assert error.type == "ArgumentsError"


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\xff\xfe\x00", "undecodable"),
        (b"", "undecodable"),
        (b'{"v":1,"actor":"greet","args":["' + b"x" * LARGEST + b'"]}', "undecodable"),
        (b'{"v":1,"actor":"greet","args":[1]}', "arguments"),
        (b'{"v":1,"actor":"greet","kwargs":{"\\u0000":"a","name":"b"}}', "arguments"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_cannot_be_run_keeps_its_bytes_in_every_engine(connection, payload, reason):
    async def greet(name: str) -> str:
        await trio.lowlevel.checkpoint()
        return name

    await connection.session.publish([Publication("default", "raw", ("somebody", 1), payload)])
    with trio.fail_after(10):
        report = await trepid.Worker(trepid.Actor(greet), messages_limit=1).run(connection)
    assert report.dead == 1
    [letter] = [view async for view in connection.messages("default", trepid.State.DEAD)]
    assert (letter.id, letter.reason) == ("raw", reason)
    assert (await connection.handle("raw").status()).payload == payload
    assert letter.error.message
    assert await connection.requeue("default") == 1


async def test_a_result_whose_conversion_fails_is_a_readable_error(connection):
    async def job() -> Choosy:
        await trio.lowlevel.checkpoint()
        return {"size": 2}  # the same in JSON as what was announced

    actor = trepid.Actor(job)
    handle = await connection.enqueue(actor.job())
    await trepid.Worker(actor, messages_limit=1).run(connection)
    with pytest.raises(trepid.ResultError, match="KeyError: 'file"):
        await handle.result()


async def test_a_reason_to_cancel_is_text_that_can_be_kept(connection):
    handle = await connection.enqueue(trepid.Job("greet"))
    with pytest.raises(TypeError, match="reason must be a string, not 3"):
        await handle.cancel(3)
    with pytest.raises(ValueError, match=r"reason 'file \\udcff' cannot be written as UTF-8"):
        await handle.cancel(STRANGE)
    assert (await handle.status()).state is trepid.State.READY
