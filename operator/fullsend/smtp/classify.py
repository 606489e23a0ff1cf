"""Whose failure a refusal is: the recipient's, the relay's, the sender's, the message's or nobody's.

Invariant (design: only the recipient's own failures are charged to the recipient): the verdict comes from stage, status
and text, never from the first digit alone. The user's ``replyRules`` come first, then the table in ``rules.toml``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fullsend.errors import InvalidInput, Problem
from fullsend.smtp.outcome import Refused, Stage
from fullsend.smtp.reply import Reply
from fullsend.smtp.rules import Charge, Rule, table

TOO_MANY_CONNECTIONS = "TooManyConnections"
"""The reason of the rule for a relay that takes no more connections than it has."""

_NOISE = re.compile(r"[^\s<>()\[\]:;,\"'@]+@[^\s<>()\[\]:;,\"'@]+|(?<=://)([^\s/]+)/\S*")


@dataclass(frozen=True, slots=True)
class Verdict:
    """``reason`` is a stable CamelCase word. ``permanent``: the same submission will be refused again (for CONNECTION
    and TRANSPORT never). ``feeds_suppression``: evidence for not writing to this address again.

    ``doubtful``: charged to the recipient for want of better knowledge ("550 no"); when it happens to nearly everyone
    ("relay access denied") the transport is meant, and the rows it struck deserve another try.
    """

    charge: Charge
    permanent: bool
    reason: str
    feeds_suppression: bool = False
    doubtful: bool = False


def classify(refused: Refused, rules: Sequence[Rule] = ()) -> Verdict:
    """``rules`` (from ``reply_rules``) override the table."""
    return classify_reply(refused.stage, refused.reply, rules)


def classify_reply(stage: Stage, reply: Reply, rules: Sequence[Rule] = ()) -> Verdict:
    """Also for the 421 of an ``Unsent`` and, at ``Stage.CONNECT``, the reply of a ``RelayRefused``."""
    for given in rules:
        if given.fits(stage, reply, reply.text):
            return _verdict(given, reply)
    return _verdict(deciding(stage, reply), reply)


def deciding(stage: Stage, reply: Reply) -> Rule:
    """The rule of the table that judges this reply; the last one fits everything."""
    return _deciding(stage, Reply(reply.code, reply.enhanced, _NOISE.sub(r"\1", reply.text).lower()))


@lru_cache(maxsize=4096)
def _deciding(stage: Stage, reply: Reply) -> Rule:
    # Without its address a relay's refusal is often the same as the last: some 150 us become one.
    return next(rule for rule in table() if rule.fits(stage, reply, reply.text))


def _verdict(rule: Rule, reply: Reply) -> Verdict:
    permanent = reply.code >= 500 if rule.permanent is None else rule.permanent
    return Verdict(rule.charge, permanent, rule.reason, rule.feeds and permanent, rule.doubtful)


def reply_rules(rules: Sequence[Mapping[str, Any]]) -> tuple[Rule, ...]:
    """A MailTransport's ``replyRules``: {stage?, code?, enhanced?, pattern, charge, permanent?, reason?}.

    ``pattern`` is a regular expression, searched without regard to case in the whole text, addresses included. Raises
    InvalidInput with every rule that can't be used.
    """
    compiled, problems = [], []
    for index, given in enumerate(rules):
        where = f"replyRules[{index}]"
        try:
            compiled.append(
                Rule.of(
                    {
                        "reason": given.get("reason") or "ReplyRule",
                        "charge": str(given["charge"]).capitalize(),
                        "permanent": given.get("permanent"),
                        "stages": [str(given["stage"]).upper()] if given.get("stage") else [],
                        "codes": [int(given["code"])] if given.get("code") else [],
                        "status": [str(given["enhanced"])] if given.get("enhanced") else [],
                        "texts": [str(given["pattern"])] if given.get("pattern") else [],
                    },
                    re.IGNORECASE,
                )
            )
        except re.error as error:
            problems.append(Problem(f"{where}.pattern", f"is not a regular expression: {error}"))
        except KeyError as error:
            problems.append(Problem(where, f"lacks {error}"))
        except (ValueError, TypeError) as error:
            problems.append(Problem(where, f"can't be used: {error}"))
    if problems:
        raise InvalidInput(problems)
    return tuple(compiled)
