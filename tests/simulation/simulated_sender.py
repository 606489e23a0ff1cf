"""A sender and a relay, one small step at a time, so that anything can happen between any two of them.

The sender follows the real one's program: claim, arm (durably), check its lease, write, hear, record; it trusts its own
clock, un-arms what was not written, reconciles what it holds after a doubtful commit, and gives the rest back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from simulated_ledger import Ledger
from simulated_rows import SESSION_LEASE, Claimed, Gone, Record

from fullsend.ledger.view import BreakerView
from fullsend.reconcile import breaker
from fullsend.states import DeliveryState

S = DeliveryState
Ask = Callable[[Callable[[], Any]], Any]
"""Carries a call to the database, or fails to, or loses its answer (``Away``)."""
BEAT = timedelta(seconds=5)
EXPIRE_AFTER = timedelta(hours=2)
POISON_AFTER = 3
SLOTS = 2


class Behaviour(StrEnum):
    """What the relay does with the next message."""

    ACCEPT = "accept"
    GREYLIST = "greylist"  # 4xx to RCPT: the recipient's own
    REJECT = "reject"  # 5xx, this mailbox
    BUSY = "busy"  # 421: the transport's
    DOWN = "down"  # nobody listens
    LOSE_REPLY = "lose-reply"  # accepted, and the 250 never arrives
    SWALLOW = "swallow"  # the content is taken, nothing is accepted, no reply
    REFUSE_SENDER = "refuse-sender"  # 5.7.x about the From


@dataclass(slots=True)
class Relay:
    accepted: Counter[int] = field(default_factory=Counter)
    written: Counter[int] = field(default_factory=Counter)
    poison: frozenset[int] = frozenset()

    def take(self, seq: int, behaviour: Behaviour) -> None:
        """The content of this recipient's message arrives."""
        self.written[seq] += 1
        if behaviour in (Behaviour.ACCEPT, Behaviour.LOSE_REPLY):
            self.accepted[seq] += 1


class Away(Exception):
    """The database could not be asked, or its answer was lost."""


@dataclass(slots=True)
class Slot:
    """One row in a connection's hands: claimed, armed, writing (past every check), heard."""

    row: Claimed
    stage: str = "claimed"
    record: Record | None = None
    trouble: breaker.Trouble | None = None

    @property
    def attempt(self) -> int:
        return self.row.attempts + 1


class Sender:
    """``exit_code`` is None while the process runs."""

    def __init__(self, name: str, wave: int, ledger: Ledger, relay: Relay) -> None:
        self.name, self.wave = name, wave
        self._ledger, self._relay = ledger, relay
        self.session: int | None = None
        self.exit_code: int | None = None
        self.frozen = False
        self.terminated = False
        self.slots: list[Slot] = []
        self._confirmed_at = ledger.now
        self._fenced = False
        self._doubt = False
        self._stop = True
        self._breaker = BreakerView()
        self._sample: tuple[breaker.Verdict, ...] = ()

    @property
    def runs(self) -> bool:
        return self.exit_code is None

    def kill(self) -> None:
        self.exit_code = 137
        self.slots.clear()

    def step(self, behaviour: Behaviour, ask: Ask, pick: int = 0) -> None:
        """One step. ``pick`` chooses the row where there are several."""
        if not self.runs or self.frozen:
            return
        try:
            self._step(behaviour, ask, pick)
        except Away:
            self._doubt = True
        except Gone:
            self.exit_code = 1

    def _step(self, behaviour: Behaviour, ask: Ask, pick: int) -> None:
        ledger = self._ledger
        if self.session is None:
            self._open(ask)
            return
        session = self.session
        writing = [slot for slot in self.slots if slot.stage == "writing"]
        if writing:  # past every check: nothing holds this one back any more, whatever has happened since
            self._write(writing[pick % len(writing)], behaviour)
            return
        if self._doubt:
            self._settle_doubt(session, ask)
            return
        if ledger.now - self._confirmed_at >= BEAT and not self._fenced:
            self._beat(session, ask)
            return
        if not self.slots:
            self._claim_or_leave(session, ask)
            return
        slot = self.slots[pick % len(self.slots)]
        match slot.stage:
            case "claimed":
                self._arm(session, slot, ask)
            case "armed":
                if self._may_write:
                    slot.stage = "writing"
                else:
                    slot.record = Record(slot.row.seq, slot.attempt, S.DEFERRED)
                    slot.stage = "heard"
            case _:
                self._tell(session, slot, ask)
                if len(self.slots) < SLOTS and self._may_send:
                    self._claim(session, ask)

    # -- what it may do --------------------------------------------------------------------------------------------

    @property
    def _halted(self) -> bool:
        return breaker.allowed_connections(self._breaker, self._ledger.now) == 0

    @property
    def _may_send(self) -> bool:
        return not (self._stop or self._halted or self.terminated or self._fenced) and self._lease_holds

    @property
    def _may_write(self) -> bool:
        return self._may_send

    @property
    def _lease_holds(self) -> bool:
        return self._ledger.now - self._confirmed_at < SESSION_LEASE / 2

    # -- steps -----------------------------------------------------------------------------------------------------

    def _open(self, ask: Ask) -> None:
        session = ask(lambda: self._ledger.open_session(self.wave))
        if session is None or self.terminated:
            if isinstance(session, int):
                self._ledger.close_session(session)
            self.exit_code = 0
            return
        self.session = session
        self._beat(session, ask)

    def _beat(self, session: int, ask: Ask) -> None:
        asked = self._ledger.now
        live = ask(lambda: self._ledger.heartbeat(session))
        if not live:
            self._fenced = True
            return
        self._confirmed_at = asked
        campaign = self._ledger.campaign
        assert campaign is not None
        self._stop = bool(campaign.control.get("stop", True))
        self._breaker = campaign.breaker

    def _settle_doubt(self, session: int, ask: Ask) -> None:
        held: dict[int, DeliveryState] = ask(lambda: self._ledger.held(session))
        known = {slot.row.seq for slot in self.slots}
        unknown_to_us = [seq for seq, state in held.items() if seq not in known and state is S.CLAIMED]
        if unknown_to_us:
            ask(lambda: self._ledger.give_back(session, unknown_to_us))
        for slot in list(self.slots):
            if slot.stage == "claimed" and held.get(slot.row.seq) is S.ARMED:
                slot.stage = "armed"  # armed by us, and nothing of it is on the wire yet
            elif slot.stage == "claimed" and slot.row.seq not in held:
                self.slots.remove(slot)
        self._doubt = False

    def _claim_or_leave(self, session: int, ask: Ask) -> None:
        if self._may_send and self._claim(session, ask):
            return
        if not self._lease_holds and not self._fenced:
            self._beat(session, ask)
            return
        ask(lambda: self._ledger.close_session(session))
        self.exit_code = 0

    def _claim(self, session: int, ask: Ask) -> bool:
        room = SLOTS - len(self.slots)
        cap = breaker.allowed_connections(self._breaker, self._ledger.now)
        claimed: list[Claimed] = ask(lambda: self._ledger.claim(session, room if cap is None else min(room, cap)))
        self.slots += [Slot(row) for row in claimed]
        return bool(claimed)

    def _arm(self, session: int, slot: Slot, ask: Ask) -> None:
        if self._may_send and ask(lambda: self._ledger.arm(session, slot.row.seq)):
            slot.stage = "armed"
            return
        ask(lambda: self._ledger.give_back(session, [slot.row.seq]))
        self.slots.remove(slot)

    def _write(self, slot: Slot, behaviour: Behaviour) -> None:
        """From here on the content is with the relay, if it gets that far; and the outcome is heard."""
        row, attempt = slot.row, slot.attempt
        slot.stage = "heard"
        if row.seq in self._relay.poison:
            charged = row.attempts >= POISON_AFTER
            slot.record = self._deferred_or_expired(slot) if charged else Record(row.seq, attempt, S.DEFERRED)
            return
        if behaviour in (Behaviour.DOWN, Behaviour.BUSY):
            slot.record = Record(row.seq, attempt, S.DEFERRED)
            slot.trouble = breaker.ConnectFailed("connect", "refused")
            return
        if behaviour is Behaviour.REFUSE_SENDER:
            slot.record = Record(row.seq, attempt, S.DEFERRED, delay=timedelta(minutes=1))
            self._sample = breaker.remember(self._sample, breaker.Verdict.SENDER)
            slot.trouble = breaker.judge(self._sample, "550 5.7.1 not you")
            return
        if behaviour is Behaviour.REJECT:
            slot.record = Record(row.seq, attempt, S.REJECTED, charged=True)
            return
        if behaviour is Behaviour.GREYLIST:
            slot.record = self._deferred_or_expired(slot)
            return
        self._relay.take(row.seq, behaviour)
        if behaviour is Behaviour.ACCEPT:
            self._sample = breaker.remember(self._sample, breaker.Verdict.ACCEPTED)
            slot.record = Record(row.seq, attempt, S.ACCEPTED)
        else:
            slot.record = Record(row.seq, attempt, S.UNKNOWN, delay=timedelta(seconds=30))
            slot.trouble = breaker.Unanswered("no reply to the final dot")

    def _deferred_or_expired(self, slot: Slot) -> Record:
        since: datetime | None = slot.row.charged_since
        if since is not None and self._ledger.now - since >= EXPIRE_AFTER:
            return Record(slot.row.seq, slot.attempt, S.EXPIRED, charged=True)
        delay = timedelta(minutes=min(30, 2 ** min(slot.row.charges, 6)))
        return Record(slot.row.seq, slot.attempt, S.DEFERRED, charged=True, delay=delay)

    def _tell(self, session: int, slot: Slot, ask: Ask) -> None:
        record, now = slot.record, self._ledger.now
        assert record is not None
        ask(lambda: self._ledger.record(session, record))
        self.slots.remove(slot)
        trouble = slot.trouble
        if trouble is not None:
            id_ = f"halt-{self.name}-{record.seq}-{record.attempt}"
            self._breaker = self._ledger.update_breaker(lambda view: breaker.trouble(view, trouble, now, halt_id=id_))
        elif record.state is S.ACCEPTED and self._breaker != BreakerView():
            self._breaker = self._ledger.update_breaker(lambda view: breaker.success(view, now))
