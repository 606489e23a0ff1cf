"""``fullsend run``: campaigns to their end on this machine.

Exit codes are a promise to scripts: 0 all complete, 2 the input can't be used, 3 halted, 4 failed or cancelled,
5 not finished and nothing will happen by itself (suspended, awaiting approval), 130 interrupted.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum

from fullsend.errors import LedgerError
from fullsend.ledger.view import BreakerState, BreakerView, Phase, PlanState
from fullsend.local.campaign import LocalCampaign
from fullsend.reconcile.actions import AcknowledgeHalt
from fullsend.reconcile.decide import Decision
from fullsend.reconcile.situation import Situation
from fullsend.states import DeliveryState

TICK = 0.5
"""Seconds between looks at most; a process that ends wakes the loop at once."""

DRAIN_SECONDS = 630.0
"""How long senders may take to read replies in flight: the dot time-out of RFC 5321 and some."""

FOREIGN_PATIENCE = 20.0
"""A killed run's claim on the ledger key lasts 15 s; an owner that is still there after this is alive."""


class ExitCode(IntEnum):
    COMPLETE = 0
    INVALID = 2
    HALTED = 3
    FAILED = 4
    UNFINISHED = 5
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Ending:
    """How one campaign ended, and what to tell its user."""

    code: ExitCode
    reason: str
    message: str


class Runner:
    """Runs campaigns side by side until each has come to an end or the user interrupts."""

    def __init__(self, campaigns: Sequence[LocalCampaign], shown: Callable[[Sequence[LocalCampaign]], None]) -> None:
        self.campaigns = campaigns
        self._shown = shown
        self._interrupted = asyncio.Event()
        _excluded_first(campaigns)

    def interrupt(self) -> None:
        self._interrupted.set()

    async def run(self) -> list[Ending]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.interrupt)
        try:
            return await asyncio.gather(*(self._run_one(campaign) for campaign in self.campaigns))
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    async def _run_one(self, campaign: LocalCampaign) -> Ending:
        ending: Ending | None = None
        foreign_since: float | None = None
        try:
            while ending is None:
                decision = await campaign.tick()
                self._shown(self.campaigns)
                foreign = decision.situation is Situation.OWNED_ELSEWHERE
                foreign_since = (foreign_since or time.monotonic()) if foreign else None
                foreign_for = time.monotonic() - foreign_since if foreign_since else 0.0
                if self._interrupted.is_set():
                    ending = _interrupted(campaign)
                elif acknowledges(decision) or (ending := ending_of(campaign, decision.situation, foreign_for)) is None:
                    await self._sleep(campaign, decision.look_again)
        finally:
            campaign.ended = True
            campaign.jobs.terminate()
            await campaign.jobs.wait(DRAIN_SECONDS)
            await self._let_go(campaign)
        self._shown(self.campaigns)
        return ending

    async def _let_go(self, campaign: LocalCampaign) -> None:
        try:
            await campaign.settle()
        except LedgerError:
            return  # its owner's lease runs out by itself

    async def _sleep(self, campaign: LocalCampaign, look_again: timedelta) -> None:
        seconds = min(TICK, look_again.total_seconds())
        campaign.jobs.ended.clear()
        waits = [asyncio.create_task(event.wait()) for event in (campaign.jobs.ended, self._interrupted)]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()


def _excluded_first(campaigns: Sequence[LocalCampaign]) -> None:
    """A campaign that excludes the recipients of another one of this run is planned after it. Of those that exclude
    each other neither waits; the first plan then says what is wrong."""
    by_key = {(each.resolved.namespace, each.resolved.ledger_key): each for each in campaigns}
    for campaign in campaigns:
        keys = ((campaign.resolved.namespace, key) for key in campaign.resolved.exclude_campaigns)
        others = tuple(by_key[key] for key in keys if key in by_key)
        campaign.excluded = tuple(each for each in others if campaign not in _reached(each))


def _reached(start: LocalCampaign) -> set[LocalCampaign]:
    seen: set[LocalCampaign] = set()
    ahead = [start]
    while ahead:
        campaign = ahead.pop()
        if campaign not in seen:
            seen.add(campaign)
            ahead.extend(campaign.excluded)
    return seen


def _interrupted(campaign: LocalCampaign) -> Ending:
    return Ending(
        ExitCode.INTERRUPTED,
        "Interrupted",
        f"{campaign.name} was interrupted; what was sent is recorded. Run the same command again to go on.",
    )


def acknowledges(decision: Decision) -> bool:
    """A person's word on a halt has been given to the ledger just now: how it stands is seen at the next look."""
    return any(isinstance(action, AcknowledgeHalt) for action in decision.actions)


def ending_of(campaign: LocalCampaign, situation: Situation, foreign_for: float) -> Ending | None:
    """How the campaign has ended for this run, or None while there is something left to do or to wait for."""
    message = campaign.said("Ready")
    match situation:
        case Situation.COMPLETE:
            return Ending(ExitCode.COMPLETE, "Complete", message)
        case Situation.FAILED | Situation.CANCELLED:
            return Ending(ExitCode.FAILED, situation.value, message)
        case Situation.CONFLICT:
            return Ending(ExitCode.INVALID, "LedgerKeyHoldsDifferentCampaign", message)
        case Situation.HALTED | Situation.LEDGER_BROKEN | Situation.LEDGER_WENT_BACK | Situation.UNPROVEN:
            return Ending(ExitCode.HALTED, situation.value, message) if campaign.quiet else None
        case Situation.TRANSPORT_TROUBLE if _never_worked(campaign) and campaign.quiet:
            return Ending(ExitCode.HALTED, "TransportTrouble", _relay_advice(campaign))
        case Situation.PLANNING | Situation.PLAN_STALLED:
            return _plan_ended(campaign, situation)
        case Situation.SUSPENDED | Situation.AWAITING_APPROVAL if campaign.quiet:
            return Ending(ExitCode.UNFINISHED, situation.value, message)
        case Situation.SENDING | Situation.TRANSPORT_TROUBLE if campaign.quiet and campaign.said("SendersFailing"):
            # In a cluster they are started again and again; here a person sits before it.
            return Ending(ExitCode.HALTED, "SendersFailing", campaign.said("SendersFailing"))
        case Situation.OWNED_ELSEWHERE if foreign_for >= FOREIGN_PATIENCE:
            return Ending(ExitCode.UNFINISHED, "OwnedElsewhere", message)
        case _:
            return None


def _never_worked(campaign: LocalCampaign) -> bool:
    """The relay has taken nothing of this campaign yet and the breaker has stopped asking: it is the settings, not the
    weather. (A relay that worked before is waited for: transport trouble heals by itself.)"""
    view = campaign.view
    return view is not None and view.breaker.state is BreakerState.HALTED and not view.counts[DeliveryState.ACCEPTED]


def _relay_advice(campaign: LocalCampaign) -> str:
    breaker = campaign.view.breaker if campaign.view is not None else BreakerView()
    return (
        f"MailTransport {campaign.resolved.transport.name}: {breaker.reason}: {breaker.message}\n"
        "Nobody has been sent to and nobody is charged for it. Mend this and run the same command again."
    )


def _plan_ended(campaign: LocalCampaign, situation: Situation) -> Ending | None:
    """A plan that failed is the user's to mend here and now; in a cluster it is tried again by itself. A planner that
    died without a verdict is tried once more here too."""
    view = campaign.view
    planners = [job for job in campaign.jobs.all if job.kind == "plan"]
    if view is None or view.phase is not Phase.REGISTERED or not planners or any(job.alive for job in planners):
        return None
    again = "Nothing has been sent. Mend this and run the same command again."
    if view.plan is not None and view.plan.state is PlanState.FAILED:
        return Ending(ExitCode.INVALID, view.plan.reason or "PlanFailed", f"{view.plan.message}\n{again}")
    if situation is Situation.PLAN_STALLED:
        last = planners[-1]
        how = last.last_words() or f"it said nothing (exit code {last.exit_code})"
        return Ending(ExitCode.HALTED, "PlannerDied", f"{last.name}: {how}; its log is {last.log}\n{again}")
    return None
