"""One row in a sender's hand: claimed, composed, perhaps armed; and what the sender asks of it."""

from __future__ import annotations

from dataclasses import dataclass

from fullsend.ledger.sessions import Arm, Claimed
from fullsend.smtp.outcome import Outgoing


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
        return Arm(self.claimed.seq, self.claimed.identity_hash)


@dataclass(frozen=True, slots=True)
class Armed:
    """A row whose content may go on the wire: only the flusher's ARMED makes one."""

    hand: InHand
