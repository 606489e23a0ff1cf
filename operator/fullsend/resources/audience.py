"""`Audience`: where the recipients of a campaign come from, and which of them are passed over.

Invariant: exactly one source. The source is read once, by the plan; nothing here reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

from pydantic import Field, JsonValue, StringConstraints

from fullsend.resources.base import Bool, ConfigMapKeyRef, Duration, Fault, Model, Name, SecretRef, matching, positive

INLINE_LIMIT = 1_000
"""Recipients written in the object itself: `kubectl apply` keeps a copy in an annotation of at most 262 KB."""

Column = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Path = Annotated[str, matching(r"^[^\x00]+$", "is not a path", 1024)]
Delimiter = Annotated[str, matching(r"^[^\r\n\x00\"]$", "is not a delimiter: one character", 1)]
Encoding = Annotated[str, matching(r"^[-_.:A-Za-z0-9]+$", "is not the name of an encoding, such as utf-8", 40)]


class RoleAddresses(StrEnum):
    """What happens to addresses of a function rather than a person (postmaster@, abuse@, noreply@ ...)."""

    SUPPRESS = "Suppress"
    ALLOW = "Allow"


class InlineRecipient(Model):
    """One recipient, written in the object."""

    email: Annotated[str, StringConstraints(min_length=1, max_length=320)] = Field(
        description="Address. One that cannot be used is counted as `invalid`, it does not refuse the audience."
    )
    id: Annotated[str, StringConstraints(max_length=256)] | None = Field(
        default=None, description="Your own identifier of this person, kept for reports. Quote a number."
    )
    variables: dict[str, JsonValue] = Field(
        default_factory=dict,
        max_length=100,
        description="What templates may use for this person, name to value.",
        json_schema_extra={
            "type": "object",
            "additionalProperties": None,
            "x-kubernetes-preserve-unknown-fields": True,
        },
    )


class InlineSource(Model):
    """Recipients written in the object: for tests and small circles."""

    recipients: tuple[InlineRecipient, ...] = Field(
        max_length=INLINE_LIMIT, description="The recipients, at most 1,000. Use another source for more."
    )


class ClaimPath(Model):
    """A file on a PersistentVolumeClaim."""

    name: Name = Field(description="Name of the PersistentVolumeClaim, in the same namespace.")
    path: Path = Field(description="Path of the file from the root of the volume, such as `exports/june.csv`.")

    def rules(self) -> Iterator[Fault]:
        if self.path and (self.path.startswith("/") or ".." in self.path.split("/")):
            yield Fault(("path",), "must be relative to the volume, without ..", ("path",))


class CsvSource(Model):
    """A CSV file with a header line. Its columns are the variables of the templates. Exactly one of
    `configMapKeyRef`, `file` and `claim`."""

    config_map_key_ref: ConfigMapKeyRef | None = Field(
        default=None, description="The key of a ConfigMap that holds the file (1 MiB at most)."
    )
    file: Path | None = Field(
        default=None,
        description="Path of a file on this machine, relative to the manifest. Only for runs without a cluster; "
        "the operator refuses it.",
    )
    claim: ClaimPath | None = Field(default=None, description="A file on a PersistentVolumeClaim.")
    delimiter: Delimiter | None = Field(
        default=None,
        description="Character between columns. Default: found from the header line (comma, semicolon, tab or bar).",
    )
    encoding: Encoding | None = Field(
        default=None,
        description="Character encoding, such as `utf-8` or `windows-1252`. Default: by byte-order mark, then "
        "UTF-8, then detected.",
    )
    email_column: Column = Field(default="email", description="Column that holds the address. Default: `email`.")
    id_column: Column | None = Field(
        default=None,
        description="Column that holds your own identifier of the person, kept for reports. Default: none.",
    )

    def rules(self) -> Iterator[Fault]:
        yield from self.exactly_one("config_map_key_ref", "file", "claim")


class ListSource(Model):
    """Members of lists kept in the ledger. Whether a list needs a confirmed opt-in is the list's own setting.
    Exactly one of `name` and `names`."""

    name: Name | None = Field(default=None, description="Name of one list.")
    names: tuple[Name, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Names of several lists. A person on more than one gets one message, judged over all of them.",
    )

    def rules(self) -> Iterator[Fault]:
        yield from self.exactly_one("name", "names")

    @property
    def all_names(self) -> tuple[str, ...]:
        return self.names or ((self.name,) if self.name else ())


class PostgresSource(Model):
    """A query on a PostgreSQL database, read once in one read-only snapshot."""

    dsn_secret_ref: SecretRef = Field(
        description="Secret of type `fullsend.dev/postgres-dsn` whose key `dsn` is the connection string."
    )
    query: Annotated[str, StringConstraints(min_length=1, max_length=65_536)] = Field(
        description="One SELECT. Column `email` is the address, `id` (optional) your identifier; the others are "
        "variables."
    )
    statement_timeout: Duration = Field(
        default="10m", description="The database stops the query after this long. Default: `10m`."
    )

    def rules(self) -> Iterator[Fault]:
        yield from positive(self, "statement_timeout")


class AudienceSpec(Model):
    """Where recipients come from. Exactly one of `inline`, `csv`, `list` and `postgres`."""

    inline: InlineSource | None = Field(default=None, description="Recipients written here, at most 1,000.")
    csv: CsvSource | None = Field(default=None, description="A CSV file.")
    list: ListSource | None = Field(
        default=None, description="Lists kept in the ledger, with opt-in and unsubscription."
    )
    postgres: PostgresSource | None = Field(default=None, description="A query on a PostgreSQL database.")
    allow_empty: Bool = Field(
        default=False,
        description="Accept a source without a single recipient. Default: false, because an empty source is nearly"
        " always a mistake.",
    )
    role_addresses: RoleAddresses = Field(
        default=RoleAddresses.SUPPRESS,
        description="`Suppress` counts addresses of a function (postmaster@, abuse@, noreply@ ...) as suppressed; "
        "`Allow` mails them. Default: `Suppress`.",
    )

    def rules(self) -> Iterator[Fault]:
        yield from self.exactly_one("inline", "csv", "list", "postgres")
