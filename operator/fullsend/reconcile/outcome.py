"""How a campaign ends: Complete, Failed or Cancelled, and in which words.

Judged from counts alone, so that the same rows always give the same verdict, in this process or after a restart.
"""

from __future__ import annotations

from typing import Literal

from fullsend.ledger.view import Counts, LedgerView, Phase
from fullsend.reconcile.observed import Desired, Tolerance
from fullsend.reconcile.senders import eligible
from fullsend.states import UNDELIVERED, DeliveryState


def finish_phase(desired: Desired, view: LedgerView) -> Literal[Phase.COMPLETE, Phase.FAILED, Phase.CANCELLED]:
    """The phase to end in once nothing is open. A campaign without a plan was cancelled or never got to anybody."""
    if desired.cancel and (view.phase is Phase.REGISTERED or view.counts[DeliveryState.CANCELLED]):
        return Phase.CANCELLED
    if view.phase is Phase.REGISTERED:
        return Phase.FAILED
    return Phase.COMPLETE if tolerable(view.counts, desired.tolerance) else Phase.FAILED


def tolerable(counts: Counts, tolerance: Tolerance) -> bool:
    """Whether those left undelivered are within ``completion.tolerate``, state by state."""
    allowed = dict(tolerance.limits)
    people = eligible(counts)
    return all(counts[state] <= allowed.get(state, 0.0) * people for state in UNDELIVERED)


def complete_reason(counts: Counts) -> str:
    if eligible(counts) == 0:
        return "NoEligibleRecipients"
    if counts.undelivered:
        return "UndeliveredWithinTolerance"
    if counts[DeliveryState.REJECTED] == 0:
        return "AllAccepted"
    return "AcceptedWithRejections" if counts[DeliveryState.ACCEPTED] else "AllRejected"


def failed_reason(view: LedgerView) -> str:
    if view.counts.total == 0:
        return "NeverPlanned"
    only_expired = view.counts[DeliveryState.EXPIRED] == view.counts.undelivered
    return "DeadlinePassed" if only_expired else "RecipientsUndelivered"
