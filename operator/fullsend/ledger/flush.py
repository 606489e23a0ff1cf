"""The flush: arming and recording, group-committed over a sender's connections, in one round trip.

Arming is the promise that lets nobody be missed and few be unknown: no content goes on the wire before its row is
``armed`` here, and it is not armed for a session that was fenced, a campaign that was stopped, a person who said no, or
without a token. Recording is what makes a message's end durable.

The three statements of a flush are one transaction (see ``Database.unit``). The first locks the session's row, so the
snapshots of the other two, taken afterwards, see everything that a fence and a sweep have done to it: a late
``accepted`` finds the attempt that the sweep noted, whatever the order in which the two arrive.

A record of a fenced session that says ``accepted`` for an attempt this session armed always wins, from any other
state; any other late record only completes the history of that attempt. Counters follow the rows in every case.

Measured (bench/ledger.py, 2 noisy cores, PostgreSQL 18, fsync on), claim + arm + record, microseconds a message:

    per flush    this process    backend
        8             32           111
       16             21            72
       32             15            55
       64             11            41
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from psycopg.rows import TupleRow

from fullsend.errors import LedgerWentBack, SessionFenced
from fullsend.ledger.database import Database, Params
from fullsend.states import DeliveryState, Seq

if TYPE_CHECKING:
    from fullsend.ledger.sessions import OpenedSession

RECORDABLE: Final = frozenset(
    {
        DeliveryState.ACCEPTED,
        DeliveryState.REJECTED,
        DeliveryState.DEFERRED,
        DeliveryState.UNKNOWN,
        DeliveryState.HELD,
        DeliveryState.EXPIRED,
        DeliveryState.UNRENDERABLE,
    }
)
TOOK_UP_TO: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds: the bounds of the histogram of how long attempts take."""
_TEXT_LIMIT: Final = 1000  # characters of a reply that are kept


@dataclass(frozen=True, slots=True)
class Arm:
    """A claimed row to arm, with the identity hash it was claimed with, and as often as it had been armed by then: a
    row that was given back and claimed anew meanwhile is another claim's to arm."""

    seq: Seq
    identity_hash: bytes
    attempts: int


@dataclass(frozen=True, slots=True)
class Record:
    """What became of one armed row, or why a claimed one was never armed.

    ``attempt`` is the number of the arm, ``Claimed.attempts + 1``. ``delay`` (seconds) is for DEFERRED and UNKNOWN.
    ``charged``: the recipient's own failure. ``feed_suppression``: with REJECTED, this mailbox is not mailed again by
    this tenant. UNRENDERABLE, DEFERRED and UNKNOWN may be recorded for a row that is still claimed; that is no attempt.
    A record whose number is not that of the row's present claim or arm moves nothing.
    An UNKNOWN beyond the campaign's ``max_unknown_resends`` becomes ``held``.
    """

    seq: Seq
    attempt: int
    state: DeliveryState
    reason: str = ""
    charged: bool = False
    content_sent: bool = False
    delay: float | None = None
    stage: str = ""
    code: int | None = None
    enhanced: str = ""
    text: str = ""
    relay: str = ""
    took_ms: int = 0
    feed_suppression: bool = False


@dataclass(frozen=True, slots=True)
class Flushed:
    """``armed``: content may go out. ``suppressed``: settled, nothing to do. ``refused``: not armed, because the row is
    no longer this session's, the campaign was stopped, or there was no token; a row that is still this session's stays
    claimed. ``live`` False: the session was fenced; finish what is on the wire and end."""

    armed: frozenset[Seq]
    suppressed: frozenset[Seq]
    refused: frozenset[Seq]
    live: bool


def guarding(session: OpenedSession, *, however_old: bool = False) -> Params:
    """The parameters of ``lock_session``."""
    told = 0 if however_old else session.told.revision
    return {"session": session.id, "started": session.started_at, "told": told}


async def in_session(
    db: Database, session: OpenedSession, *statements: tuple[str, Params], however_old: bool = False
) -> tuple[bool, list[list[TupleRow]]]:
    """One unit under the session's lock: whether the session is live, and the rows of each statement. What a statement
    says of the counters' revision, the caller gives to ``session.told``.

    Raises LedgerWentBack, with nothing done, in a ledger older than what this session was told, and ever after.
    ``however_old``: only where the session is not in it.
    """
    memory = session.told
    if not however_old:
        memory.check()
    try:
        lock, *rows = await db.unit(("lock_session", guarding(session, however_old=however_old)), *statements)
        if not lock:
            raise LedgerWentBack(f"The ledger is older than it was: session {session.id} is not in it.")
    except LedgerWentBack as error:
        memory.went_back = str(error)
        raise
    return lock == [(True,)], rows


async def flush(db: Database, session: OpenedSession, *, arm: Sequence[Arm], record: Sequence[Record]) -> Flushed:
    """Arms and records in one transaction.

    Raises SessionFenced where the session is dead and there was nothing to record; LedgerUnavailable where the commit
    is in doubt: flush the same records again after reconnecting (a record is idempotent by its attempt's number), and
    look at ``held`` for what was armed. Once LedgerWentBack was raised, nothing is armed; records may still be given:
    what is true of a row's present attempt is true in an older ledger as well.
    """
    key = {"session": session.id, "campaign": session.campaign, "tenant": session.tenant}
    statements: list[tuple[str, Params]] = []
    if record:
        took = {"took_ms": sum(r.took_ms for r in record if r.stage), "took": _array(_by_duration(record))}
        statements.append(("record", {**key, **took, "told": _told(record), "seqs": _array([r.seq for r in record])}))
    if arm:
        statements.append(("arm", {**key, **_asked(arm)}))
    only_records = bool(session.told.went_back) and not arm
    try:
        live, results = await in_session(db, session, *statements, however_old=only_records)
    except LedgerWentBack:
        if not only_records:
            raise
        return Flushed(frozenset(), frozenset(), frozenset(), live=False)  # it knows nothing of these attempts
    if not live and not record:
        raise SessionFenced(f"Session {session.id} was fenced: nothing more may be claimed or armed under it.")
    if live:
        for rows in results:
            session.told.hear(rows)
    decided = {Seq(seq): armed for seq, armed, _ in results[-1]} if arm else {}
    armed = frozenset(seq for seq, is_armed in decided.items() if is_armed)
    return Flushed(
        armed=armed,
        suppressed=frozenset(decided) - armed,
        refused=frozenset(a.seq for a in arm) - frozenset(decided),
        live=live,
    )


async def still_meant(db: Database, session: OpenedSession, armed: Sequence[Arm]) -> frozenset[Seq]:
    """Which of these rows, armed a while ago and with nothing on the wire, may have their content sent now. Changes
    nothing: one that may not is to be recorded as not sent, and settled when it would be armed again.

    Raises SessionFenced, LedgerWentBack, LedgerUnavailable.
    """
    key = {"session": session.id, "campaign": session.campaign, "tenant": session.tenant}
    live, (rows,) = await in_session(db, session, ("still_meant", {**key, **_asked(armed)}))
    if not live:
        raise SessionFenced(f"Session {session.id} was fenced: nothing more may be sent under it.")
    return frozenset(Seq(seq) for (seq,) in rows)


def _asked(rows: Sequence[Arm]) -> Params:
    return {
        "seqs": _array([a.seq for a in rows]),
        "attempts": _array([a.attempts for a in rows]),
        "hashes": b"".join(a.identity_hash for a in rows),
    }


def _array(values: Sequence[int]) -> str:
    """An array literal. psycopg would choose the element type by the largest value and prepare each variant anew."""
    return "{" + ",".join(map(str, values)) + "}"


def _by_duration(records: Sequence[Record]) -> list[int]:
    """How many attempts that a relay answered took up to each of ``TOOK_UP_TO``, and last those that took longer."""
    found = [0] * (len(TOOK_UP_TO) + 1)
    for record in records:
        if record.stage:
            found[bisect_left(TOOK_UP_TO, record.took_ms / 1000)] += 1
    return found


def _told(records: Sequence[Record]) -> str:
    """One JSON parameter instead of fourteen arrays; defaults are left out."""
    return json.dumps([_told_of(record) for record in records], separators=(",", ":"))


def _told_of(record: Record) -> dict[str, Any]:
    if record.state not in RECORDABLE:
        raise ValueError(f"a sender cannot record {record.state}")
    told: dict[str, Any] = {"seq": record.seq, "n": record.attempt, "state": record.state.value}
    if record.reason:
        told["reason"] = clean(record.reason)
    if record.charged:
        told["charged"] = True
    if record.content_sent:
        told["sent"] = True
    if record.delay is not None:
        told["delay"] = record.delay
    if record.stage:
        told["stage"] = record.stage
    if record.code is not None:
        told["code"] = record.code
    if record.enhanced:
        told["enhanced"] = clean(record.enhanced)
    if record.text:
        told["text"] = clean(record.text)
    if record.relay:
        told["relay"] = clean(record.relay)
    if record.took_ms:
        told["ms"] = record.took_ms
    if record.feed_suppression:
        told["feed"] = True
    return told


def clean(text: str) -> str:
    """Text that PostgreSQL can hold: no NUL, no lone surrogates, and no more than a reply may be."""
    if len(text) > _TEXT_LIMIT:
        text = text[:_TEXT_LIMIT]
    if text.isascii():
        return text.replace("\x00", "\ufffd")
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
