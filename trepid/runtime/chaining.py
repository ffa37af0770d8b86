"""Chains in a worker: what a job that is done hands on, and what becomes of it if the next step cannot be stored."""

from __future__ import annotations

from typing import Any

from trepid.connection.publishing import refuse
from trepid.errors import PayloadTooLargeError, UnknownQueueError, UnsupportedError
from trepid.ports.broker import Session
from trepid.ports.messages import Delivery, Publication, Settlement
from trepid.rules import attempts
from trepid.rules.life import Reply
from trepid.rules.terms import Terms
from trepid.rules.verdicts import Failed, Failure, Verdict
from trepid.runtime.job_run import JobRun
from trepid.values import chains
from trepid.values.envelope import Envelope
from trepid.values.words import complaint


def follow_up(envelope: Envelope, delivery: Delivery, value: object) -> Publication:
    """Return the message of the step after the one that has returned *value*.

    Its id and its publish token are the same each time, so whoever publishes it again is recognised.

    Raises:
      TypeError, ValueError: if the step wants the value, and it cannot be written as JSON.
      PayloadTooLargeError: if there is too much of it.
    """
    link = envelope.then[0]
    chain = chains.place_of(envelope, delivery.queue, delivery.id, delivery.enqueued)
    return Publication(
        link.queue,
        chains.follow_up_id(chain.id, chain.step),
        chain.token,
        chains.handed_on(envelope, chain, value),
        link.priority,
        link.delay,
        link.due,
        link.ttl,
        chains.unique_of(link),
        link.result_ttl,
        link.max_crashes,
        link.gate,
        remembered=True,
    )


def concluded(run: JobRun, envelope: Envelope, value: object, agreed: Terms) -> Verdict:
    """Decide about a job that returned.  One that cannot hand on what its follow-up wants has failed."""
    if envelope.then:
        try:
            run.follow_up = follow_up(envelope, run.delivery, value)
        except Exception as exc:  # noqa: BLE001 - encoding may run the value's own code
            text = f"what it returned cannot be handed on to {envelope.then[0].job.actor}: {complaint(exc)}"
            return attempts.failed(Failure("ResultError", text), agreed)
    return attempts.succeeded(value, agreed.keep)


def settle_in(session: Session, connection: Any, settlement: Settlement, following: Publication | None) -> Reply:
    """Settle a message, and publish what follows it, in the transaction of its own job.

    Raises:
      UnknownQueueError, QueueFullError: if the follow-up cannot be stored; the transaction must be rolled back.
    """
    reply = session.settle_in(connection, settlement)
    if following is not None and reply is Reply.APPLIED:
        refuse([following], session.publish_in(connection, [following]))
    return reply


async def settle(session: Session, run: JobRun, verdict: Verdict) -> tuple[Verdict, Reply]:
    """Settle a job that is done together with its follow-up; return what it was settled as, and the reply.

    A queue that was deleted while the job ran would swallow the follow-up: so the job has failed, and says where.
    """
    following = run.follow_up
    assert following is not None
    if following.queue in await session.queues():
        try:
            [reply] = await session.settle([Settlement(run.ref, verdict)], then=[following])
        except (UnsupportedError, PayloadTooLargeError) as exc:
            verdict = Failed(Failure(type(exc).__name__, f"its follow-up {following.id} cannot be stored: {exc}"))
        else:
            return verdict, reply
    else:
        verdict = Failed(Failure("UnknownQueueError", str(UnknownQueueError(following.queue))))
    [reply] = await session.settle([Settlement(run.ref, verdict)])
    return verdict, reply
