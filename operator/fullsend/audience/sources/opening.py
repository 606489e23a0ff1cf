"""From an Audience's spec to the source that reads it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from fullsend.audience.sources.base import Mounts, Source
from fullsend.audience.sources.csv_file import CsvSource
from fullsend.audience.sources.inline import InlineSource
from fullsend.audience.sources.lists import ListSource
from fullsend.audience.sources.postgres import PostgresSource
from fullsend.ledger.database import Database
from fullsend.resources.models import AudienceSpec, parse_duration
from fullsend.resources.models import CsvSource as CsvSpec


def open_source(
    spec: AudienceSpec, *, mounts: Mounts, db: Database, tenant: str, together_with: Collection[str] = ()
) -> Source:
    """``together_with``: the lists of the campaign's other audiences; a person is judged over all of them.

    Nothing is read yet, but for a secret. Raises SourceError.
    """
    if spec.inline is not None:
        recipients = [
            (each.email, {**each.variables, **({} if each.id is None else {"id": each.id})})
            for each in spec.inline.recipients
        ]
        return InlineSource(recipients)
    if spec.csv is not None:
        return CsvSource(
            _csv_path(spec.csv, mounts),
            column=spec.csv.email_column,
            delimiter=spec.csv.delimiter or "",
            encoding=spec.csv.encoding or "",
            id_column=spec.csv.id_column or "",
        )
    if spec.list is not None:
        return ListSource(db, tenant, spec.list.all_names, frozenset(together_with) | set(spec.list.all_names))
    if spec.postgres is not None:
        secret = spec.postgres.dsn_secret_ref.name
        timeout = parse_duration(spec.postgres.statement_timeout).total_seconds()
        return PostgresSource(mounts.secret(secret, "dsn"), spec.postgres.query, secret, timeout=timeout)
    raise AssertionError("an AudienceSpec has exactly one source")


def _csv_path(spec: CsvSpec, mounts: Mounts) -> Path:
    if spec.config_map_key_ref is not None:
        return mounts.config(spec.config_map_key_ref.name, spec.config_map_key_ref.key)
    if spec.claim is not None:
        return mounts.claim(spec.claim.name, spec.claim.path)
    return mounts.file(spec.file or "")
