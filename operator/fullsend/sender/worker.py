"""The sender: claim -> compose -> arm -> submit -> record, within what the ledger allows.

One asyncio process, one session. The pulse learns what may be done, the feed keeps work at hand, connections submit it,
the flusher commits. The worker ends when nothing is left that it could do soon, when it is told to stop, when its
session is fenced, or when one of its parts breaks; in every case replies in flight are read, records are committed, the
rest is given back and the session is closed. Only a database that stays away, or a second signal, cuts that short:
what could not be recorded then ends as unknown with the session's lease. Invariants 4 to 7.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

from fullsend.errors import LedgerError, LedgerUnavailable, RelayError
from fullsend.ledger import campaigns, sessions
from fullsend.ledger.database import Database
from fullsend.ledger.sessions import Claimed, Heartbeat, OpenedSession
from fullsend.message.compose import Composer
from fullsend.reconcile import breaker
from fullsend.sender.connection import Connection
from fullsend.sender.envelope import compose
from fullsend.sender.feed import Feed
from fullsend.sender.flusher import Flusher, Permission
from fullsend.sender.hand import Armed, InHand
from fullsend.sender.lease import Lease
from fullsend.sender.pulse import Pulse
from fullsend.sender.relay import rules_of, settings_for
from fullsend.sender.verdict import Judge, Judgement
from fullsend.smtp.classify import TOO_MANY_CONNECTIONS, classify_reply
from fullsend.smtp.connect import connect
from fullsend.smtp.outcome import Accepted, Outcome, RelayRefused, Stage, Unknown
from fullsend.smtp.session import Session
from fullsend.smtp.settings import RelayMemory
from fullsend.states import CampaignId, DeliveryState

log = logging.getLogger(__name__)

LINGER = 5.0
"""Rows due within this many seconds are waited for; for later ones a new sender is cheaper than an idle one."""

LOOK_EVERY = 0.5
"""Seconds between looks at whether an idle sender is done."""

HELD_BACK_PATIENCE = 3.0
"""A suspended or halted campaign's senders stay this long, in case it was only a moment; then their pods go."""

DATABASE_GRACE = 30.0
"""Seconds that an ending sender waits for a database that is away; records kept longer than this are given up."""

HURRIED_GRACE = 3.0
"""The same after a second signal."""

HALT_AGAIN = 1.0
"""Seconds between tries to halt the campaign where the ledger that went back can't be reached."""

CUT_OFF_AFTER = 300.0
"""Seconds without a heart-beat after which a sender that has nothing left to record gives up: whatever it waits for,
its session is long over."""

CROWDED = 15.0
"""Seconds for which no more connections are tried than a relay has shown to take (it refused one beside others)."""

MAX_CONNECTIONS = 64


class Ended(StrEnum):
    """Why a sender ended; kept with its session in the ledger."""

    DRAINED = "Drained"  # nothing left that could be done soon
    STOPPED = "Stopped"  # told to, by a signal
    HELD_BACK = "HeldBack"  # suspended, halted, cancelled or outside its window
    FENCED = "Fenced"  # declared dead by others
    WENT_BACK = "LedgerWentBack"  # the ledger is older than what it told this sender
    CUT_OFF = "CutOff"  # the ledger has not answered for so long that it is declared dead by now
    BROKEN = "Broken"  # by a mistake in this program; its exception is raised once all is given back


class Worker:
    """Works for one campaign under one session until nothing is left to do."""

    def __init__(
        self,
        *,
        db: Database,
        flush_db: Database,
        campaign: CampaignId,
        opened: OpenedSession,
        first: Heartbeat,
        lease: Lease,
        composer: Composer,
        secrets_dir: Path,
    ) -> None:
        self._db = db
        self._campaign = campaign
        self._session = opened
        self._composer = composer
        self._secrets_dir = secrets_dir
        self._change = asyncio.Event()
        self._over = asyncio.Event()
        self._signals = 0
        self._broken: BaseException | None = None
        self._judge = Judge()
        self._relay_memory = RelayMemory()
        self._crowd = (0, 0.0)  # connections a relay has shown to take, and until when that counts
        self._accepted_at = 0.0
        self._pulse = Pulse(db, campaign, opened, first, lease, self._notify)
        self._flusher = Flusher(flush_db, opened, self._fenced)
        self._feed = Feed(db, opened, self._pulse, self._flusher, compose=self._compose, changed=self._notify)
        self._connections = [Connection(index, self, self._flusher) for index in range(MAX_CONNECTIONS)]

    # -- lifecycle ------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Arm nothing more; what is on the wire is finished, the rest is given back. Told again, it doesn't wait for
        replies: what is on the wire is unknown then."""
        self._signals += 1
        self._notify()

    async def run(self) -> Ended:
        """Work until nothing is left to do; returns why it ended. Raises what broke, and LedgerUnavailable where
        something could not be recorded."""
        flushing = self._start(self._flusher.run())
        background = [self._start(self._pulse.run()), self._start(self._feed.run())]
        connections = [self._start(connection.run()) for connection in self._connections]
        ended = await self._until_done()
        log.info("ending: %s", ended)
        self._over.set()
        self._notify()
        halting = self._start(self._halt()) if self._session.told.went_back else None  # not once replies have come
        await self._finish(*connections, cut=True)
        self._flusher.close()
        await self._finish(flushing)
        for task in background:
            task.cancel()
        await asyncio.wait(background)
        await self._leave(ended)
        if self._session.told.went_back:
            ended = Ended.WENT_BACK
            await (halting or self._halt())
        if self._broken is not None:
            raise self._broken
        if self._flusher.lost:
            raise LedgerUnavailable(
                f"{self._flusher.lost} outcomes could not be recorded; they are unknown from now on"
            )
        return ended

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a part of this sender broke", exc_info=error)
            self._broken = self._broken or error
            self._notify()

    async def _finish(self, *tasks: asyncio.Task[None], cut: bool = False) -> None:
        """Wait for tasks to end by themselves, but not longer than the ledger may be away. ``cut``: a second signal
        cancels them."""
        pending = set(tasks)
        while pending:
            _, pending = await asyncio.wait(pending, timeout=LOOK_EVERY)
            hurried = self._signals > 1
            if hurried and cut:
                cut = False
                for task in pending:
                    task.cancel()
            away = self._flusher.away_since
            if away is not None and time.monotonic() - away > (HURRIED_GRACE if hurried else DATABASE_GRACE):
                self._flusher.abandon()

    async def _leave(self, ended: Ended) -> None:
        """Close the session; rows that are claimed in it go back, due now."""
        try:
            async with asyncio.timeout(HURRIED_GRACE if self._signals > 1 else DATABASE_GRACE):
                await sessions.close_session(self._db, self._session, ended)
        except (LedgerError, TimeoutError) as error:
            # Nothing is lost: the session's lease runs out and its rows are given back by whoever notices.
            log.warning("the session could not be closed; it ends by its lease: %s", error)

    async def _halt(self) -> None:
        """The ledger went back: nobody goes on before a person has seen it, and other senders may not know."""
        try:
            async with asyncio.timeout(HURRIED_GRACE if self._signals > 1 else DATABASE_GRACE):
                while True:
                    try:
                        return await self._pulse.halt_went_back()
                    except LedgerError as error:
                        log.warning("the campaign is not halted yet: %s", error)
                    await asyncio.sleep(HALT_AGAIN)
        except TimeoutError:
            log.error("the campaign could not be halted; whoever reconciles it sees that the ledger went back")

    async def _until_done(self) -> Ended:
        held_back_since: float | None = None
        while True:
            if self._broken is not None:
                return Ended.BROKEN
            if self._session.told.went_back:
                return Ended.WENT_BACK
            if self._pulse.lease.fenced:
                return Ended.FENCED
            if self._signals:
                return Ended.STOPPED
            if self._pulse.lease.silence > CUT_OFF_AFTER and not self._flusher.in_hand():
                return Ended.CUT_OFF
            now = time.monotonic()
            if self._pulse.held_back or self._pulse.halted:
                held_back_since = held_back_since or now
                if now - held_back_since >= HELD_BACK_PATIENCE:
                    return Ended.HELD_BACK
            else:
                held_back_since = None
                if await self._drained():
                    return Ended.DRAINED
            await self._look_again()

    async def _look_again(self) -> None:
        """After LOOK_EVERY, or at once when there is a reason to end."""
        deadline = time.monotonic() + LOOK_EVERY
        while not (self._signals or self._broken or self._pulse.lease.fenced):
            try:
                await asyncio.wait_for(self.change.wait(), deadline - time.monotonic())
            except TimeoutError:
                return

    async def _drained(self) -> bool:
        """Nobody has anything that this sender could do now or soon.

        Judged by the ledger: what is pending, unless a rollout keeps it back and the rest of the queue was walked, and
        what is due within LINGER. A sender without tokens, or without a share of the connections, stays while there is.
        """
        if self._holds_anything():
            return False
        try:
            view = await campaigns.observe(self._db, self._campaign, session_lease_seconds=self._session.lease_seconds)
        except LedgerError:
            return False
        kept_back = self._pulse.control.fresh_limit is not None and self._feed.walked_whole
        if (view.counts[DeliveryState.PENDING] and not kept_back) or view.due_now or self._holds_anything():
            return False
        return view.next_due_at is None or (view.next_due_at - view.now).total_seconds() > LINGER

    def _holds_anything(self) -> bool:
        return not self._feed.idle or any(connection.busy for connection in self._connections)

    # -- what connections ask (connection.Supply) -----------------------------------------------------------------

    def _notify(self) -> None:
        """Something has changed: whoever waits for a change looks again."""
        self._change.set()
        self._change = asyncio.Event()
        if not self.may_send:
            for connection in self._connections:
                connection.hold_back()

    def _fenced(self) -> None:
        self._pulse.lease.fence()
        self._notify()

    @property
    def change(self) -> asyncio.Event:
        return self._change

    @property
    def ended(self) -> bool:
        return self._over.is_set()

    @property
    def may_send(self) -> bool:
        return not (self._signals or self.ended) and self._pulse.may_send

    @property
    def one_at_a_time(self) -> bool:
        return self._pulse.probing

    def wanted(self, index: int) -> bool:
        most, until = self._crowd
        if time.monotonic() < until and index >= most:
            return False
        return index < self._pulse.connections

    def has_work(self) -> bool:
        return self._feed.has_work()

    def worth_connecting(self) -> bool:
        return self._feed.at_hand > self._pulse.opening

    def take(self) -> InHand | None:
        return self._feed.take() if self.may_send else None

    def not_armed(self, hand: InHand, permission: Permission) -> None:
        self._feed.not_armed(hand, permission)

    def may_carry(self, carried: int) -> bool:
        limit = self._pulse.control.relay.messages_per_connection
        return not limit or carried < limit

    def opened(self, change: int) -> None:
        self._pulse.open_connections += change

    async def connect(self) -> Session | None:
        settings = settings_for(self._pulse.control.relay, self._secrets_dir)
        self._pulse.opening += 1
        connecting = asyncio.ensure_future(connect(settings, self._relay_memory))
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait((connecting, over), return_when=asyncio.FIRST_COMPLETED)
            return connecting.result() if connecting.done() else None
        finally:
            over.cancel()
            connecting.cancel()
            self._pulse.opening -= 1

    async def connect_failed(self, error: RelayError) -> None:
        log.warning("no connection to the relay: %s", error)
        # The breaker decides how many may try; each that may takes a breath first, in which those that were begun
        # together with this one come to their end.
        breath = min(self._pulse.control.retry.min_backoff, 1.0)
        if self._too_many_connections(error):
            await asyncio.sleep(breath)
            if await self._pulse.too_many_connections(str(error)):
                return
        now = time.monotonic()
        if self._pulse.open_connections and now - self._accepted_at < CROWDED:
            # The relay works for the others: it doesn't want more than these, and that is no trouble.
            self._crowd = (self._pulse.open_connections, now + CROWDED)
        else:
            await self._pulse.trouble(breaker.ConnectFailed(error.stage, str(error)))
        await asyncio.sleep(breath)

    def _too_many_connections(self, error: RelayError) -> bool:
        if not isinstance(error, RelayRefused):
            return False
        rules = rules_of(self._pulse.control.relay)
        return classify_reply(Stage.CONNECT, error.reply, rules).reason == TOO_MANY_CONNECTIONS

    def judge(self, armed: Armed, outcome: Outcome, session: Session, took_ms: int) -> Judgement:
        if isinstance(outcome, Accepted):
            self._accepted_at = time.monotonic()
            self._pulse.answered(took_ms)
        elif isinstance(outcome, Unknown):
            log.warning("seq %d, attempt %d: unknown: %s", armed.hand.claimed.seq, armed.hand.attempt, outcome.why)
        judgement = self._judge.judge(
            armed,
            outcome,
            relay=session.relay,
            took_ms=took_ms,
            fresh=not session.delivered,
            retry=self._pulse.control.retry,
            rules=rules_of(self._pulse.control.relay),
            now=self._pulse.database_now(),
        )
        return replace(judgement, domain=armed.hand.claimed.domain)

    async def tell(self, judgement: Judgement, recorded: asyncio.Future[None]) -> None:
        said = judgement.record
        if said.reason == TOO_MANY_CONNECTIONS and await self._pulse.too_many_connections(said.text, beside=True):
            pass  # no trouble: this connection was one too many
        elif judgement.trouble is not None:
            await self._pulse.trouble(judgement.trouble)
        elif judgement.record.state is DeliveryState.ACCEPTED:
            await self._pulse.success()
        if said.state in (DeliveryState.ACCEPTED, DeliveryState.REJECTED) and judgement.trouble is None:
            words = f"{said.code} {said.enhanced} {said.text}"
            rejected = said.state is DeliveryState.REJECTED
            await self._pulse.settled(judgement.domain, rejected=rejected, said=words)
        if judgement.reopen:
            await recorded  # and with it all that was handed over before: what is to be reopened has ended
            await self._reopen(judgement.reopen)

    async def _reopen(self, identities: Sequence[bytes]) -> None:
        """Rows that were refused for what turned out to be everybody's trouble: they wait again, uncharged."""
        id_ = f"everyone-refused-{self._session.id}-{uuid.uuid4().hex[:8]}"
        try:
            await campaigns.reopen_refused(self._db, self._session, id=id_, identities=identities)
        except LedgerError as error:
            log.warning("%d rows refused for everybody's trouble stay rejected: %s", len(identities), error)

    # -- composing ------------------------------------------------------------------------------------------------

    def _compose(self, claimed: Claimed) -> InHand:
        return compose(self._composer, claimed, self._pulse.control.relay)
