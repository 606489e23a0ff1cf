"""The sample campaign loads as it is, and its recipients are what a try-out needs."""

from __future__ import annotations

import csv
from pathlib import Path

from fullsend.resources.load import load_manifests
from fullsend.resources.models import CampaignClass, TlsMode, parse_duration
from fullsend.resources.resolve import resolve

SAMPLES = Path(__file__).parents[3] / "manifests" / "samples"


def test_the_sample_campaign_is_whole() -> None:
    manifests = load_manifests([SAMPLES / "campaign.yaml"])
    resolved = resolve(manifests, manifests.campaigns["default", "spring-launch"])
    assert resolved.spec.class_ is CampaignClass.MARKETING
    assert resolved.spec.senders.max_pods == 2
    assert parse_duration(resolved.spec.retry.max_backoff).total_seconds() == 3
    smtp = resolved.transport.spec.smtp
    assert (smtp.host, smtp.port, smtp.tls) == ("127.0.0.1", 2525, TlsMode.DISABLED)
    source = resolved.audiences[0].spec.csv
    assert source is not None
    assert source.file == "recipients.csv"


def test_the_sample_recipients_are_five_thousand_and_not_all_usable() -> None:
    with (SAMPLES / "recipients.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5000
    assert set(rows[0]) == {"email", "first_name", "plan", "city"}
    assert all(None not in row and all(row[column] for column in ("first_name", "plan", "city")) for row in rows)
    assert any(not row["first_name"].isascii() for row in rows)
    addresses = [row["email"].lower() for row in rows]
    assert len(addresses) - len(set(addresses)) == 40
    assert sum("@" not in address for address in addresses) == 6
    assert sum(address.startswith(("postmaster@", "abuse@")) for address in addresses) == 2
    domains = {address.rsplit("@")[-1] for address in addresses if address.count("@") == 1}
    assert {"mail.example", "example.com", "example.net", "example.org"} < domains
