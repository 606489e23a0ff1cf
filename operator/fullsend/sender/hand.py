"""One row in a sender's hand: claimed, composed, perhaps armed; and what the sender asks of it."""

from __future__ import annotations

from dataclasses import dataclass

from fullsend.ledger.sessions import Arm, Claimed, Record
from fullsend.smtp.outcome import Outgoing
from fullsend.states import DeliveryState


@dataclass(frozen=True, slots=True)
class InHand:
    """A claimed row whose message is built. ``attempt`` is the number of the attempt that arming it begins."""

    claimed: Claimed
    outgoing: Outgoing
    message_id: str

    @property
    def attempt(self) -> int:
        return self.claimed.attempts + 1

    @property
    def arm(self) -> Arm:
        return Arm(self.claimed.seq, self.claimed.identity_hash, self.claimed.attempts)

    def not_sent(self, reason: str) -> Record:
        """Nothing of this row went on the wire, whether or not it was armed: due now, uncharged."""
        return Record(self.claimed.seq, self.attempt, DeliveryState.DEFERRED, reason, delay=0.0)


@dataclass(frozen=True, slots=True)
class Armed:
    """A row whose content may go on the wire: only the flusher's ARMED makes one. ``since``: when leave was asked, by
    time.monotonic(); a no after that may not have been seen."""

    hand: InHand
    since: float
