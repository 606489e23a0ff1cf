"""``failurePolicy`` while sending: a list that goes bad stops before it is burned, and a provider stops by itself.

A sender remembers its recent settled recipients. Where the share of the rejected among them is clearly beyond
``maxRejected``, it is judged whose they are: a provider that rejects while the others accept is blocked (its rows wait,
uncharged), anything else halts the campaign. What a sender remembers ends with it; the whole since the beginning is in
the ledger's counters, and is judged by whoever reconciles and by every sender at every beat (``whole_beyond``), so that
senders which never live long halt the campaign all the same. Pure; invariant: one provider, however much of the sample
it is, does not stop the others.

The receiving provider is the recipient's domain, or the company behind it where that is common knowledge: no DNS is
asked, which would tell the world whom one writes to, and differ from sender to sender.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

from fullsend.ledger.view import BreakerView, Counts
from fullsend.reconcile import breaker
from fullsend.states import DeliveryState

_SHARED: Final = {
    "google": "gmail.com googlemail.com",
    "microsoft": "outlook.com hotmail.com live.com msn.com hotmail.co.uk hotmail.de hotmail.fr outlook.de outlook.fr",
    "yahoo": "yahoo.com ymail.com rocketmail.com aol.com yahoo.co.uk yahoo.de yahoo.fr yahoo.co.jp aim.com",
    "apple": "icloud.com me.com mac.com",
    "united-internet": "gmx.de gmx.net gmx.at gmx.ch web.de gmx.com mail.com 1und1.de",
    "proton": "proton.me protonmail.com pm.me",
    "yandex": "yandex.ru yandex.com ya.ru",
    "mail.ru": "mail.ru bk.ru list.ru inbox.ru",
}
_PROVIDERS: Final = {domain: name for name, domains in _SHARED.items() for domain in domains.split()}

RECENT: Final = 1000
"""Settled recipients that are remembered at most: enough to tell 0.3% from 1%."""
PROVIDER_SAMPLE: Final = 20
"""Settled recipients of one provider before it is judged: a small domain may have no more."""
FEWEST: Final = 5
"""Rejections without which nobody is judged: a share of few says little."""


def provider_of(domain: str) -> str:
    """Whose servers take the mail of a domain."""
    return _PROVIDERS.get(domain.lower(), domain.lower())


@dataclass(frozen=True, slots=True)
class TooMany:
    """``provider`` is "" where they are everybody's. ``rejected`` of ``settled`` recent recipients."""

    provider: str
    rejected: int
    settled: int
    message: str


def whole_beyond(
    counts: Counts,
    held: BreakerView,
    *,
    max_rejected: float,
    min_sample: int,
    acknowledged: str = "",
    clearly: bool = False,
) -> str:
    """Of all recipients so far more were rejected than ``spec.failurePolicy`` allows, and nobody has agreed: what to
    say of it. "" otherwise. ``acknowledged``: what the spec says beside what the ledger remembers. ``clearly``: by more
    than chance; for those who look at every second."""
    all_rejected = counts[DeliveryState.REJECTED]
    # What a provider rejected until it was blocked has stopped, or was agreed to, and says nothing of the others.
    apart = sum(one.rejected for one in held.blocked) + sum(one.rejected for one in held.acknowledged)
    rejected = max(0, all_rejected - apart)
    sample = rejected + counts[DeliveryState.ACCEPTED]
    if sample < max(1, min_sample) or rejected <= max_rejected * sample:
        return ""
    if clearly and rejected <= _chance(sample, max_rejected):
        return ""
    if breaker.rejections_acknowledged((acknowledged, *(one.id for one in held.acknowledged)), all_rejected):
        return ""
    return (
        f"{rejected} of {sample} recipients were rejected, more than failurePolicy.maxRejected allows "
        f"({max_rejected:.1%}): is the list what it should be?"
    )


class Recent:
    """The recent settled recipients of one sender."""

    def __init__(self) -> None:
        self._seen: deque[tuple[str, bool]] = deque(maxlen=RECENT)

    def settled(
        self, domain: str, *, rejected: bool, said: str, max_rejected: float, min_sample: int
    ) -> TooMany | None:
        """One more; what is to be stopped, if anything. What was found is forgotten, so that it is found once."""
        provider = provider_of(domain)
        self._seen.append((provider, rejected))
        if not rejected:
            return None
        recent = list(self._seen)[-max(min_sample, PROVIDER_SAMPLE) :]
        theirs = [bad for name, bad in self._seen if name == provider]
        fine = _fine([bad for name, bad in recent if name != provider], max_rejected)
        if len(theirs) >= PROVIDER_SAMPLE and beyond(theirs, max_rejected) and fine:
            return self._found(provider, theirs, said)
        whole = [bad for _, bad in recent]
        if len(whole) >= min_sample and beyond(whole, max_rejected) and not fine:
            return self._found("", whole, said)
        return None

    def _found(self, provider: str, sample: list[bool], said: str) -> TooMany:
        rejected, settled = sum(sample), len(sample)
        self._seen = deque((one for one in self._seen if provider and one[0] != provider), maxlen=RECENT)
        who = f"of {provider} " if provider else ""
        return TooMany(
            provider,
            rejected,
            settled,
            f"{rejected} of the last {settled} recipients {who}were rejected, more than failurePolicy.maxRejected "
            f"allows; the last one with: {said}",
        )


def beyond(sample: list[bool], share: float) -> bool:
    """Clearly more of the sample are true than this share: by two standard deviations, which chance rarely makes."""
    count = len(sample)
    return sum(sample) >= FEWEST and sum(sample) > _chance(count, share)


def _chance(count: int, share: float) -> float:
    return count * share + 2 * math.sqrt(count * share * (1 - share))


def _fine(sample: list[bool], share: float) -> bool:
    """There are others, and they do not suffer from the same."""
    return sample.count(False) >= FEWEST and not beyond(sample, share)
