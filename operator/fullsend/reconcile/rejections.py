"""``failurePolicy`` while sending: a list that goes bad stops before it is burned, and a provider stops by itself.

A sender remembers its recent settled recipients. Where the share of the rejected among them is clearly beyond
``maxRejected``, it is judged whose they are: a provider that rejects while the others accept is blocked (its rows wait,
uncharged), anything else halts the campaign. The whole since the beginning is judged by ``situation``, from the
ledger's counters. Pure; invariant: one provider, however much of the sample it is, does not stop the others.

The receiving provider is the recipient's domain, or the company behind it where that is common knowledge: no DNS is
asked, which would tell the world whom one writes to, and differ from sender to sender.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

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
    return sum(sample) >= FEWEST and sum(sample) > count * share + 2 * math.sqrt(count * share * (1 - share))


def _fine(sample: list[bool], share: float) -> bool:
    """There are others, and they do not suffer from the same."""
    return sample.count(False) >= FEWEST and not beyond(sample, share)
