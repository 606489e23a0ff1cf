"""How a mail sink misbehaves: which recipients meet which trouble, and what the relay as a whole does wrong.

Who is hit is a function of the seed and the recipient's address, so a retry meets the same trouble as the first try,
as it would at a real relay, and two runs over the same audience can be compared. Nothing here does any I/O.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from fullsend.errors import InvalidInput, Problem


class Stage(StrEnum):
    """Where in a transaction something goes wrong."""

    MAIL = "Mail"
    RCPT = "Rcpt"
    DATA = "Data"
    CONTENT = "Content"
    DOT = "Dot"


class Action(StrEnum):
    REPLY = "Reply"  # answer this instead
    DROP = "Drop"  # close the connection without an answer
    SILENCE = "Silence"  # never answer, keep the connection open
    ENDLESS = "Endless"  # answer with continuation lines for ever
    DELAY = "Delay"  # answer as usual, but late


@dataclass(frozen=True, slots=True)
class Effect:
    stage: Stage
    action: Action
    reply: str = ""
    times: int | None = None  # how many tries of one recipient are hit; None: all


class Fault(StrEnum):
    """Troubles with a name."""

    GREYLIST = "Greylist"
    UNKNOWN_MAILBOX = "UnknownMailbox"
    MAILBOX_FULL = "MailboxFull"
    LOCAL_ERROR = "LocalError"
    QUOTA_EXCEEDED = "QuotaExceeded"
    RELAY_DENIED = "RelayDenied"
    SENDER_REFUSED = "SenderRefused"  # at MAIL: ``match`` and ``share`` look at the reverse-path
    NUL_REPLY = "NulReply"
    ENDLESS_REPLY = "EndlessReply"
    DROP_AT_RCPT = "DropAtRcpt"
    DROP_AT_DATA = "DropAtData"
    DROP_IN_CONTENT = "DropInContent"
    DROP_AFTER_DOT = "DropAfterDot"  # the message is kept: it was delivered, and nobody was told
    SILENT_AFTER_DOT = "SilentAfterDot"  # likewise
    SLOW = "Slow"  # the answer to the dot comes ``delay`` seconds late
    REPLY = "Reply"  # ``reply`` at ``stage``


EFFECTS: Mapping[Fault, Effect] = {
    Fault.GREYLIST: Effect(Stage.RCPT, Action.REPLY, "450 4.2.0 greylisted, try again later", times=1),
    Fault.UNKNOWN_MAILBOX: Effect(Stage.RCPT, Action.REPLY, "550 5.1.1 no such user here"),
    Fault.MAILBOX_FULL: Effect(Stage.RCPT, Action.REPLY, "452 4.2.2 mailbox full"),
    Fault.LOCAL_ERROR: Effect(Stage.RCPT, Action.REPLY, "451 4.3.0 local error in processing"),
    Fault.QUOTA_EXCEEDED: Effect(Stage.RCPT, Action.REPLY, "454 4.5.3 daily sending quota exceeded"),
    Fault.RELAY_DENIED: Effect(Stage.RCPT, Action.REPLY, "554 5.7.1 relay access denied"),
    Fault.SENDER_REFUSED: Effect(Stage.MAIL, Action.REPLY, "550 5.7.1 this sender is not allowed here"),
    Fault.NUL_REPLY: Effect(Stage.RCPT, Action.REPLY, "550 5.1.1 no such\0user"),
    Fault.ENDLESS_REPLY: Effect(Stage.RCPT, Action.ENDLESS, "250-still thinking about it"),
    Fault.DROP_AT_RCPT: Effect(Stage.RCPT, Action.DROP),
    Fault.DROP_AT_DATA: Effect(Stage.DATA, Action.DROP),
    Fault.DROP_IN_CONTENT: Effect(Stage.CONTENT, Action.DROP),
    Fault.DROP_AFTER_DOT: Effect(Stage.DOT, Action.DROP),
    Fault.SILENT_AFTER_DOT: Effect(Stage.DOT, Action.SILENCE),
    Fault.SLOW: Effect(Stage.DOT, Action.DELAY),
}


def _share(value: Any) -> Any:
    if isinstance(value, str) and value.endswith("%"):
        try:
            return float(value[:-1]) / 100
        except ValueError:
            return value
    return value


Share = Annotated[float, BeforeValidator(_share), Field(ge=0, le=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Rule(_Frozen):
    """One trouble and who meets it: a share ("5%" or 0.05) of the addresses that match a pattern (``*@full.example``).

    The first rule that takes an address is the only one for it, and shares do not overlap: two rules of 5% hit 10%.
    """

    fault: Fault
    match: str = "*"
    share: Share = 1.0
    times: int | None = Field(default=None, ge=1)  # the first so many tries of each recipient; default: the fault's own
    delay: float = Field(default=0.0, ge=0)  # seconds before the answer
    stage: Stage | None = None  # these two only for ``Reply``
    reply: str = ""

    @model_validator(mode="after")
    def _reply_is_whole(self) -> Self:
        own = self.stage is not None or bool(self.reply)
        if self.fault is Fault.REPLY:
            if self.stage in (None, Stage.CONTENT) or not self.reply[:3].isdigit():
                raise ValueError("Reply needs a stage (Mail, Rcpt, Data or Dot) and a reply that begins with its code")
        elif own:
            raise ValueError("stage and reply go with fault Reply only")
        if self.fault is Fault.SLOW and not self.delay:
            raise ValueError("Slow needs a delay")
        return self

    @cached_property
    def effect(self) -> Effect:
        if self.fault is Fault.REPLY:
            return Effect(self.stage or Stage.RCPT, Action.REPLY, self.reply, self.times)
        named = EFFECTS[self.fault]
        return Effect(named.stage, named.action, named.reply, self.times or named.times)


class Banner(StrEnum):
    NORMAL = "Normal"
    SILENT = "Silent"  # accepts the connection and says nothing
    HTTP = "Http"  # another protocol altogether


class Faults(_Frozen):
    """Everything that goes wrong at one relay. The default: nothing does."""

    seed: int = 0
    rules: tuple[Rule, ...] = ()
    banner: Banner = Banner.NORMAL
    reply_delay: float = Field(default=0.0, ge=0)  # seconds before every single reply
    max_connections: int | None = Field(default=None, ge=0)  # beyond it: 421 4.7.0
    messages_per_connection: int | None = Field(default=None, ge=1)  # then MAIL gets 421 4.7.0
    errors_per_connection: int | None = Field(default=None, ge=1)  # then 421 4.7.0, as Postfix does
    data_without_recipients: bool = False  # 354 even though every RCPT was refused

    def rule_for(self, address: str, *, at_mail: bool) -> Rule | None:
        """The rule that takes this address, if any. Reverse-paths (``at_mail``) and recipients have their own rules."""
        if not self.rules:
            return None
        address = address.lower()
        place: float | None = None
        taken = 0.0
        for rule in self.rules:
            if (rule.effect.stage is Stage.MAIL) != at_mail:
                continue
            if rule.match != "*" and not fnmatch.fnmatchcase(address, rule.match.lower()):
                continue
            if rule.share >= 1.0:
                return rule
            if place is None:
                digest = hashlib.blake2b(f"{self.seed} {address}".encode(), digest_size=8).digest()
                place = int.from_bytes(digest) / 2**64
            taken += rule.share
            if place < taken:
                return rule
        return None


# A relay on an ordinary day. What is lost after the dot, the only trouble that can make a duplicate, is rare.
REALISTIC = Faults(
    rules=(
        Rule(fault=Fault.UNKNOWN_MAILBOX, share=0.012),
        Rule(fault=Fault.GREYLIST, share=0.03),
        Rule(fault=Fault.MAILBOX_FULL, share=0.004, times=2),
        Rule(fault=Fault.LOCAL_ERROR, share=0.005, times=1),
        Rule(fault=Fault.SLOW, share=0.005, delay=0.3),
        Rule(fault=Fault.DROP_AT_RCPT, share=0.001, times=1),
        Rule(fault=Fault.DROP_AT_DATA, share=0.001, times=1),
        Rule(fault=Fault.DROP_IN_CONTENT, share=0.001, times=1),
        Rule(fault=Fault.DROP_AFTER_DOT, share=0.0004, times=1),
    ),
    max_connections=50,
    messages_per_connection=500,
)
PRESETS: Mapping[str, Faults] = {
    "none": Faults(),
    "realistic": REALISTIC,
    "greylist": Faults(rules=(Rule(fault=Fault.GREYLIST),)),
    "blocked": Faults(rules=(Rule(fault=Fault.SENDER_REFUSED),)),
    "relay-denied": Faults(rules=(Rule(fault=Fault.RELAY_DENIED),)),
    "slow": Faults(reply_delay=5.0),
}


def load_faults(name: str) -> Faults:
    """A preset by name, or a YAML file. Raises InvalidInput with everything that is wrong with it."""
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name)
    if not path.is_file():
        raise InvalidInput([Problem(name, "no such file, and no preset", f"presets: {', '.join(PRESETS)}")])
    try:
        return Faults.model_validate(YAML(typ="safe", pure=True).load(path.read_text()) or {})
    except (YAMLError, UnicodeDecodeError) as broken:
        raise InvalidInput([Problem(name, f"not YAML: {broken}")]) from broken
    except ValidationError as broken:
        problems = [
            Problem(".".join((name, *(str(part) for part in error["loc"]))), error["msg"]) for error in broken.errors()
        ]
        raise InvalidInput(problems) from broken
