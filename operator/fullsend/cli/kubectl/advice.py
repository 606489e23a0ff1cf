"""What a person does about a campaign that waits for one: by the reason of its condition Ready.

A condition's message already says what is the matter; this names the command. Invariant (tested): every reason of a
campaign that is halted, stalled or failed has an answer here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_MEND_AND_RESUME: Final = "then `kubectl fullsend resume {name}`"
_DATABASE: Final = "mend the database; the campaign goes on by itself"
_LEFT: Final = (
    "`kubectl fullsend missing {name}` names who has not got it; `kubectl fullsend retry {name} --state-of STATE` "
    "sends to them again"
)

ADVICE: Final[Mapping[str, str]] = {
    "AwaitingApproval": "see how the first ones went (`kubectl fullsend report {name}`), then "
    "`kubectl fullsend approve {name}`",
    "Suspended": "`kubectl fullsend preview {name}` shows what one gets; `kubectl fullsend resume {name}` goes on",
    "TransportTrouble": "nothing, if the relay heals; `kubectl fullsend resume {name}` tries it at once",
    "SenderRefused": f"mend what the relay refuses (authentication, reputation, a block list), {_MEND_AND_RESUME}",
    "MessageRefused": "the message is frozen: `kubectl fullsend cancel {name}`, and a new campaign",
    "EveryoneRefused": f"mend the relay's settings, {_MEND_AND_RESUME}",
    "NoReplyAfterContent": f"ask the relay's logs whether the messages arrived, {_MEND_AND_RESUME}",
    "TooManyRejected": f"is the list what it should be? If it is, {_MEND_AND_RESUME.removeprefix('then ')}",
    "ProviderRejects": f"see what it said (`kubectl fullsend report {{name}}`), clean its part of the list, "
    f"{_MEND_AND_RESUME}",
    "ProviderRefusesSender": f"its answer says where to ask to be let in again; {_MEND_AND_RESUME}",
    "LedgerWentBack": "bring the right database back; or, knowing that some may get it twice, `kubectl fullsend resume "
    "{name}`",
    "LedgerDiskFull": _DATABASE,
    "LedgerSchemaMismatch": "run `fullsend migrate` of the operator's version; the campaign goes on by itself",
    "LedgerRefused": _DATABASE,
    "LedgerInconsistent": "another hand changed rows: mend or restore the ledger; nothing is called complete before",
    "LedgerKeyOwnedElsewhere": "end it where it runs, or give this one another spec.ledgerKey",
    "LedgerKeyHoldsDifferentCampaign": "put the content back, or give it another name: what was planned never changes",
    "ReferencesNotResolved": "apply or mend what the message names; the campaign goes on by itself",
    "PlanFailed": "mend what the message names; the audience is read again by itself",
    "NeverPlanned": "apply it anew under another name, with a later schedule.deadline",
    "DeadlinePassed": _LEFT,
    "RecipientsUndelivered": _LEFT,
    "AcceptedWithRejections": "`kubectl fullsend report {name}` says why mailboxes refused",
    "UndeliveredWithinTolerance": _LEFT,
}


def advice(reason: str, name: str) -> str:
    """What to do, or "" where there is nothing to be done."""
    return ADVICE.get(reason, "").format(name=name)
