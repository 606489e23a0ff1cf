"""The states of a delivery and what may happen in each: the vocabulary every room shares.

A delivery is the ledger row of one recipient in one campaign. Its state's meaning never depends on an editable
field. ``TRANSITIONS`` is the whole machine; the ledger's SQL, the simulation and the docs are checked against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NewType

CampaignId = NewType("CampaignId", int)
SessionId = NewType("SessionId", int)
Seq = NewType("Seq", int)
"""The position of a recipient in its campaign's plan, from 1; with the campaign id the key of a delivery."""


class DeliveryState(StrEnum):
    """What is known of one recipient of one campaign."""

    PENDING = "pending"  # planned, never tried
    CLAIMED = "claimed"  # a live session holds it; nothing is on the wire
    ARMED = "armed"  # content may be on the wire
    DEFERRED = "deferred"  # due again at a known time
    UNKNOWN = "unknown"  # was armed, then nobody knows; due for a bounded resend
    ACCEPTED = "accepted"  # the relay took responsibility (250 after the final dot)
    REJECTED = "rejected"  # the relay refused this mailbox for good
    SUPPRESSED = "suppressed"  # this person said no
    INVALID = "invalid"  # the address cannot be used
    EXPIRED = "expired"  # still undelivered when its time ran out
    UNRENDERABLE = "unrenderable"  # the message cannot be built for this recipient
    HELD = "held"  # unknown more often than may be resent; a person decides
    CANCELLED = "cancelled"  # the campaign was ended by its user


OPEN = frozenset(
    {
        DeliveryState.PENDING,
        DeliveryState.CLAIMED,
        DeliveryState.ARMED,
        DeliveryState.DEFERRED,
        DeliveryState.UNKNOWN,
    }
)
SETTLED = frozenset({DeliveryState.ACCEPTED, DeliveryState.REJECTED, DeliveryState.SUPPRESSED, DeliveryState.INVALID})
UNDELIVERED = frozenset(
    {DeliveryState.EXPIRED, DeliveryState.UNRENDERABLE, DeliveryState.HELD, DeliveryState.CANCELLED}
)
MISSING = OPEN | UNDELIVERED
"""Whoever is in one of these states has not been delivered to, and did not settle otherwise."""

_S = DeliveryState
_LATE = frozenset({DeliveryState.ACCEPTED})
"""A fenced session's ``accepted`` arrives late and wins from whatever the row has become: the mail is out."""
TRANSITIONS: Mapping[DeliveryState, frozenset[DeliveryState]] = {
    # Claimed by a session; suppressed, expired or cancelled while waiting. Never armed, so never late.
    _S.PENDING: frozenset({_S.CLAIMED, _S.SUPPRESSED, _S.EXPIRED, _S.CANCELLED}),
    # Armed; given back (due now, uncharged); not buildable; suppression seen when arming; a resend that was never armed
    # returns to unknown when given back.
    _S.CLAIMED: frozenset({_S.ARMED, _S.DEFERRED, _S.UNKNOWN, _S.UNRENDERABLE, _S.SUPPRESSED}) | _LATE,
    # Any verdict; transport trouble before the content (deferred, due now); expired on a charged refusal past its time.
    _S.ARMED: frozenset({_S.ACCEPTED, _S.REJECTED, _S.DEFERRED, _S.UNKNOWN, _S.HELD, _S.EXPIRED}),
    # Held when it is due, where it was unknown more often than may be resent by now.
    _S.DEFERRED: frozenset({_S.CLAIMED, _S.HELD, _S.SUPPRESSED, _S.EXPIRED, _S.CANCELLED}) | _LATE,
    # Resent at most maxUnknownResends times.
    _S.UNKNOWN: frozenset({_S.CLAIMED, _S.HELD, _S.SUPPRESSED, _S.EXPIRED, _S.CANCELLED}) | _LATE,
    # Accepted is for ever: there is no way to take a mail back.
    _S.ACCEPTED: frozenset(),
    # Reopened by name (``retry``), never by itself.
    _S.REJECTED: frozenset({_S.DEFERRED}) | _LATE,
    _S.SUPPRESSED: _LATE,
    _S.INVALID: frozenset(),
    _S.EXPIRED: frozenset({_S.DEFERRED}) | _LATE,
    _S.UNRENDERABLE: frozenset({_S.DEFERRED}) | _LATE,
    _S.HELD: frozenset({_S.DEFERRED}) | _LATE,
    _S.CANCELLED: frozenset({_S.DEFERRED}) | _LATE,
}
REOPENABLE = frozenset(state for state, after in TRANSITIONS.items() if state not in OPEN and _S.DEFERRED in after)
