"""A ledger, folders for secrets, config maps and files, and campaigns registered as a shell would: for plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from fullsend.audience.sources.base import Mounts
from fullsend.ledger import campaigns
from fullsend.ledger.database import Database
from fullsend.ledger.view import PlanView
from fullsend.resources.fingerprint import fingerprint
from fullsend.states import CampaignId

TENANT = "default"


@dataclass(frozen=True, slots=True)
class World:
    db: Database
    dsn: str
    mounts: Mounts

    async def campaign(
        self,
        *audiences: tuple[str, Mapping[str, Any]],
        exclude: Sequence[tuple[str, Mapping[str, Any]]] = (),
        exclude_campaigns: Sequence[str] = (),
        message: Mapping[str, Any] | None = None,
        key: str = "spring",
    ) -> CampaignId:
        content = {
            "class": "Transactional",
            "message": {
                "from": {"address": "news@sender.example"},
                "subject": "Hello",
                "text": "Hi",
                **(message or {}),
            },
            "audiences": [{"name": name, "spec": spec} for name, spec in audiences],
            "exclude": {
                "audiences": [{"name": name, "spec": spec} for name, spec in exclude],
                "campaigns": list(exclude_campaigns),
            },
            "unsubscribe": None,
        }
        registered = await campaigns.register(
            self.db,
            tenant=TENANT,
            key=key,
            name=key,
            owner=campaigns.OwnerClaim("here", "uid", 60),
            content=content,
            fingerprint=fingerprint(content),
        )
        return registered.campaign

    def csv(self, name: str, text: str) -> Mapping[str, Any]:
        (self.mounts.base_dir / name).write_text(text, encoding="utf-8")
        return {"csv": {"file": name}}

    def secret(self, name: str, dsn: str) -> None:
        folder = self.mounts.secrets_dir / name
        folder.mkdir(parents=True)
        (folder / "dsn").write_text(dsn + "\n")

    async def latest(self, campaign: CampaignId) -> PlanView:
        view = await campaigns.observe(self.db, campaign, session_lease_seconds=30)
        assert view.plan is not None
        return view.plan

    def rows(self, campaign: CampaignId) -> dict[str, tuple[str, str]]:
        """address -> (state, reason), as they are in the tables."""
        return {address: (state, reason) for address, state, reason in self.query(
            "SELECT r.address, d.state::text, d.reason FROM fullsend.recipient r JOIN fullsend.delivery d"
            " USING (campaign_id, seq) WHERE campaign_id = %s ORDER BY seq", campaign)}  # fmt: skip

    def query(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(sql, params)
            return cursor.fetchall() if cursor.description else []


def inline(*recipients: str | tuple[str, Mapping[str, Any]], **settings: Any) -> dict[str, Any]:
    return {
        "inline": {
            "recipients": [
                {"email": each} if isinstance(each, str) else {"email": each[0], "variables": each[1]}
                for each in recipients
            ]
        },
        **settings,
    }
