"""Every error Fullsend raises on purpose, as one tree.

Expected things (a relay's refusal, a fenced session) are values; only broken things raise.
A message says what is wrong, where, and what to do about it.

    FullsendError
     +- InvalidInput            what the user wrote cannot be used; carries every problem at once
     |   +- LedgerKeyConflict   the ledger key already belongs to a campaign with other content
     +- LedgerError             the ledger refused or cannot be used as it is
     |   +- LedgerUnavailable   cannot be reached now; the same call may succeed later
     |   +- SchemaMismatch      the schema is older or newer than this program can use
     |   +- SessionFenced       this session was declared dead; nothing more may be written for it
     |   |   +- LedgerWentBack  the database is older than what it told this session
     |   +- CampaignOwned       another live owner reconciles this ledger key
     +- RenderError             one recipient's message cannot be built
     +- SourceError             an audience source cannot be read, or what it gives cannot be used
     +- RelayError              connecting, greeting, TLS or authentication with a relay failed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class FullsendError(Exception):
    """Something is broken; the text is meant for the person who has to mend it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the input.

    ``where`` names file, document and field ("campaign.yaml, document 2 (Campaign spring-launch),
    spec.message.subject"), ``what`` says what is wrong, ``fix`` what to do ("" where ``what`` already says it).
    """

    where: str
    what: str
    fix: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}"
        return f"{text} ({self.fix})" if self.fix else text


class InvalidInput(FullsendError):
    """What the user wrote cannot be used. All problems are reported together."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class LedgerKeyConflict(InvalidInput):
    """The ledger key already holds a campaign with different content (LedgerKeyHoldsDifferentCampaign)."""


class LedgerError(FullsendError):
    """The ledger refused, or cannot be used as it is."""


class LedgerUnavailable(LedgerError):
    """The database cannot be reached now; the same call may succeed later."""


class SchemaMismatch(LedgerError):
    """The ledger's schema is older or newer than this program can use."""


class SessionFenced(LedgerError):
    """The session was declared dead; nothing more may be claimed or armed under it."""


class LedgerWentBack(SessionFenced):
    """The database is older than what it told this session (a lagging replica, a restored backup): rows that were sent
    may wait there as if they had not been."""


class CampaignOwned(LedgerError):
    """Another live owner reconciles this ledger key."""


class RenderError(FullsendError):
    """One recipient's message cannot be built; the row becomes ``unrenderable`` with this text as the reason."""


class SourceError(FullsendError):
    """An audience source cannot be read, or what it gives cannot be used. ``reason`` is a stable CamelCase word."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class RelayError(FullsendError):
    """Connecting, greeting, TLS or authentication with a relay failed; no message was touched.

    ``stage`` is one of ``connect``, ``banner``, ``ehlo``, ``starttls``, ``auth``; ``code`` is the SMTP reply code
    where the relay gave one.
    """

    def __init__(self, stage: str, message: str, code: int | None = None) -> None:
        self.stage = stage
        self.code = code
        super().__init__(message)
