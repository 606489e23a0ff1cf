"""The `status` of the four kinds: what a reader of an object sees. Nothing here decides.

Invariant: a campaign's counters are one a state of the ledger and sum to `total`.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

Count = Annotated[int, Field(ge=0)]
_INT64: JsonDict = {"format": "int64"}


class StatusModel(BaseModel):
    """Lenient, unlike what a user writes: a newer operator may have written fields this one does not know."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, populate_by_name=True, alias_generator=lambda name: to_camel(name.rstrip("_"))
    )


class ConditionStatus(StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class LimitedBy(StrEnum):
    """What keeps the campaign from going faster."""

    RATE = "Rate"
    RELAY = "Relay"
    BREAKER = "Breaker"
    DATABASE = "Database"
    SCHEDULE = "Schedule"
    APPROVAL = "Approval"


class Condition(StatusModel):
    """As in the Kubernetes API conventions (metav1.Condition)."""

    type: Annotated[str, Field(max_length=316)] = Field(description="Kind of the condition, in CamelCase.")
    status: ConditionStatus = Field(description="`True`, `False` or `Unknown`.")
    reason: Annotated[str, Field(min_length=1, max_length=1024)] = Field(description="Why, one word in CamelCase.")
    message: Annotated[str, Field(max_length=32768)] = Field(
        default="", description="Why, for a person, with what to do."
    )
    last_transition_time: datetime = Field(description="When `status` last changed.")
    observed_generation: int = Field(
        default=0, description="Generation of the spec this was judged on.", json_schema_extra=_INT64
    )


class Halt(StatusModel):
    """Why sending has stopped by itself."""

    id: str = Field(description="Write this into `spec.acknowledgedHalt` to resume.")
    reason: str = Field(description="Why, one word in CamelCase.")
    message: str = Field(default="", description="Why, for a person, with what to do.")
    since: datetime | None = Field(default=None, description="When it halted.")
    next_probe_time: datetime | None = Field(
        default=None, description="When one message is tried again. Absent when only a person can resume."
    )


class ProofStatus(StatusModel):
    """What completion rests on: one query over all rows."""

    time: datetime = Field(description="When the proof was made, by the database's clock.")
    digest: str = Field(description="Order-independent sum over the recipients' identities, equal to the plan's.")
    rows: Count = Field(description="Rows looked at.", json_schema_extra=_INT64)
    holds: bool = Field(description="Rows, counters and plan agree, and nothing is open.")


class PlanStatus(StatusModel):
    """What reading the audience found."""

    state: str = Field(description="`running`, `sealed`, `failed` or `discarded`.")
    generation: Count = Field(default=0, description="Number of the attempt to plan.", json_schema_extra=_INT64)
    rows_read: Count = Field(default=0, description="Rows read from all sources.", json_schema_extra=_INT64)
    inserted: Count = Field(default=0, description="Recipients in the plan.", json_schema_extra=_INT64)
    duplicates: Count = Field(default=0, description="Rows of a person already in the plan.", json_schema_extra=_INT64)
    invalid: Count = Field(default=0, description="Recipients whose address cannot be used.", json_schema_extra=_INT64)
    suppressed: Count = Field(default=0, description="Recipients suppressed when planned.", json_schema_extra=_INT64)
    digest: str = Field(default="", description="Order-independent sum over the recipients' identities.")
    render_checked: Count = Field(
        default=0, description="Recipients the message was built for as a check.", json_schema_extra=_INT64
    )
    render_failed: Count = Field(default=0, description="How many of these failed.", json_schema_extra=_INT64)
    sealed_at: datetime | None = Field(default=None, description="When planning ended.")
    reason: str = Field(default="", description="Why a plan failed, one word in CamelCase.")
    message: str = Field(default="", description="Why a plan failed, for a person.")


def share_done(total: int, missing: int) -> str:
    """``97%``: rounded down, so that ``100%`` means that nobody is missing."""
    return f"{(total - missing) * 100 // total}%" if total else ""


class CampaignStatus(StatusModel):
    """Progress, conditions and proof of a campaign."""

    observed_generation: int = Field(
        default=-1,
        description="Generation of the spec this status is about; -1 before the first look.",
        json_schema_extra=_INT64,
    )
    state: str = Field(default="", description="The campaign in one word, for a table.")
    conditions: tuple[Condition, ...] = Field(
        default=(),
        description="Ready, Complete, Finished, Failed, Suspended, Halted, Reconciling, Stalled.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    total: Count = Field(default=0, description="Recipients in the plan.", json_schema_extra=_INT64)
    eligible: Count = Field(
        default=0,
        description="Recipients in the plan who are neither suppressed nor invalid.",
        json_schema_extra=_INT64,
    )
    missing: Count = Field(default=0, description="Open and undelivered recipients.", json_schema_extra=_INT64)
    progress: str = Field(
        default="",
        description="Share of `total` that is not missing, such as `97%`, for a table. Empty before the plan.",
    )
    pending: Count = Field(default=0, description="Planned, never tried.", json_schema_extra=_INT64)
    claimed: Count = Field(default=0, description="Held by a sender; nothing is on the wire.", json_schema_extra=_INT64)
    armed: Count = Field(default=0, description="The message may be on the wire now.", json_schema_extra=_INT64)
    deferred: Count = Field(default=0, description="Due again at a known time.", json_schema_extra=_INT64)
    unknown: Count = Field(
        default=0, description="Sent, then nobody knows; due for a bounded resend.", json_schema_extra=_INT64
    )
    accepted: Count = Field(default=0, description="Accepted by the relay.", json_schema_extra=_INT64)
    rejected: Count = Field(default=0, description="Mailbox refused for good by the relay.", json_schema_extra=_INT64)
    suppressed: Count = Field(default=0, description="Said no, or policy passes them over.", json_schema_extra=_INT64)
    invalid: Count = Field(default=0, description="The address cannot be used.", json_schema_extra=_INT64)
    expired: Count = Field(default=0, description="Undelivered when time ran out.", json_schema_extra=_INT64)
    unrenderable: Count = Field(
        default=0, description="The message cannot be built for them.", json_schema_extra=_INT64
    )
    held: Count = Field(default=0, description="Unknown more often than may be resent.", json_schema_extra=_INT64)
    cancelled: Count = Field(
        default=0, description="The campaign was cancelled before their turn.", json_schema_extra=_INT64
    )
    revision: Count = Field(
        default=0, description="Revision of the ledger; it never goes back.", json_schema_extra=_INT64
    )
    rate_per_second: float = Field(default=0.0, description="Messages accepted a second, lately.")
    limited_by: LimitedBy | None = Field(
        default=None,
        description="What keeps it from going faster: `Rate`, `Relay`, `Breaker`, `Database`, `Schedule` or "
        "`Approval`.",
    )
    learned_connections: Count | None = Field(
        default=None,
        description="SMTP connections that the relay takes over all campaigns of the transport, where it has said that "
        "there were too many. Absent while it takes as many as `limits.connections` allows.",
    )
    next_attempt_time: datetime | None = Field(default=None, description="When the next deferred recipient is due.")
    start_time: datetime | None = Field(default=None, description="When the first message went out.")
    completion_time: datetime | None = Field(default=None, description="When the campaign ended.")
    halt: Halt | None = Field(default=None, description="Why sending has stopped by itself.")
    plan: PlanStatus | None = Field(default=None, description="What reading the audience found.")
    proof: ProofStatus | None = Field(default=None, description="What completion rests on.")


def _observed_generation() -> Any:
    return Field(
        default=-1,
        description="Generation of the spec this status is about; -1 before the first look.",
        json_schema_extra=_INT64,
    )


def _conditions() -> Any:
    return Field(
        default=(),
        description="Ready; Reconciling and Stalled while they are true.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )


class LastCount(StatusModel):
    """What was found when the audience was last read by itself. A plan may find others: sources change, and a campaign
    may exclude people."""

    time: datetime = Field(description="When it was read.")
    rows_read: Count = Field(default=0, description="Rows read.", json_schema_extra=_INT64)
    recipients: Count = Field(
        default=0, description="People found: rows that are not duplicates.", json_schema_extra=_INT64
    )
    eligible: Count = Field(default=0, description="Of these, who may be mailed.", json_schema_extra=_INT64)
    duplicates: Count = Field(default=0, description="Rows of a person found before.", json_schema_extra=_INT64)
    invalid: Count = Field(default=0, description="Addresses that cannot be used.", json_schema_extra=_INT64)
    suppressed: Count = Field(
        default=0,
        description="People passed over: said no, not confirmed, a role address.",
        json_schema_extra=_INT64,
    )


class ListMembers(StatusModel):
    """A list that the audience is drawn from, with its members by status."""

    name: str = Field(description="Name of the list.")
    confirmed: Count = Field(default=0, description="Members who confirmed.", json_schema_extra=_INT64)
    unconfirmed: Count = Field(default=0, description="Members who have not.", json_schema_extra=_INT64)
    unsubscribed: Count = Field(default=0, description="Members who left.", json_schema_extra=_INT64)


class AudienceStatus(StatusModel):
    """Whether the audience can be read, and what was found when it last was."""

    observed_generation: int = _observed_generation()
    state: str = Field(default="", description="The audience in one word, for a table.")
    conditions: tuple[Condition, ...] = _conditions()
    last_count: LastCount | None = Field(
        default=None, description="What was found when it was last read. Absent before, and after an edit."
    )
    columns: tuple[str, ...] = Field(
        default=(), description="Names that templates may use for its recipients, the first 200."
    )
    lists: tuple[ListMembers, ...] = Field(default=(), description="The lists it is drawn from, for source `list`.")


class MailTemplateStatus(StatusModel):
    """Whether the template compiles, and what it needs of a recipient."""

    observed_generation: int = _observed_generation()
    state: str = Field(default="", description="The template in one word, for a table.")
    conditions: tuple[Condition, ...] = _conditions()
    variables: tuple[str, ...] = Field(default=(), description="Variables that a recipient must have.")
    optional_variables: tuple[str, ...] = Field(
        default=(), description="Variables that it uses only where a recipient has them."
    )
    text: str = Field(
        default="",
        description="Where the plain text part comes from: `Written`, `Generated` (once, from the HTML part) or "
        "`PerRecipient` (from each rendered HTML part, which takes longer).",
    )
    text_bytes: Count = Field(default=0, description="Size of the plain text template.", json_schema_extra=_INT64)
    html_bytes: Count = Field(default=0, description="Size of the HTML template.", json_schema_extra=_INT64)
    attachment_bytes: Count = Field(
        default=0, description="Size of all attachments, before encoding.", json_schema_extra=_INT64
    )


class TransportHalt(StatusModel):
    """A halt that concerns a relay: it stopped a campaign that uses it."""

    campaign: str = Field(description="The campaign that halted.")
    reason: str = Field(description="Why, one word in CamelCase.")
    message: str = Field(default="", description="Why, for a person, with what to do.")
    since: datetime | None = Field(default=None, description="When it halted.")


class MailTransportStatus(StatusModel):
    """Whether the relay can be reached, what it offers, and how it does for the campaigns that use it now."""

    observed_generation: int = _observed_generation()
    state: str = Field(default="", description="The transport in one word, for a table.")
    conditions: tuple[Condition, ...] = _conditions()
    relay: str = Field(default="", description="Where the last probe got to, such as `relay.example[192.0.2.7]:587`.")
    tls_version: str = Field(default="", description="Such as `TLSv1.3`. Empty: the connection is not encrypted.")
    capabilities: tuple[str, ...] = Field(default=(), description="What the relay offered in EHLO, after TLS.")
    auth_mechanisms: tuple[str, ...] = Field(default=(), description="The ways to log in that it offered.")
    authenticated: bool = Field(default=False, description="Whether the last probe logged in.")
    pipelining: str = Field(
        default="", description="`Overlap`, `Group` or `Disabled`: what senders begin with, by spec and relay."
    )
    size_limit: Count = Field(
        default=0,
        description="Largest message the relay takes, in bytes; 0 if it does not say.",
        json_schema_extra=_INT64,
    )
    last_probe_time: datetime | None = Field(default=None, description="When it was last probed.")
    campaigns: Count = Field(default=0, description="Campaigns that send through it now.", json_schema_extra=_INT64)
    connections: Count = Field(
        default=0,
        description="Connections that their live senders may open, together.",
        json_schema_extra=_INT64,
    )
    learned_connections: Count | None = Field(
        default=None,
        description="SMTP connections that the relay takes over all campaigns, where it has said that there were too "
        "many. Absent while it takes as many as `limits.connections` allows, and while no campaign sends.",
    )
    halt: TransportHalt | None = Field(default=None, description="The latest halt of a campaign that uses it.")
