"""The samples load as they are: those for a cluster, and the demo for this machine with what a try-out needs."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from click.testing import CliRunner

from fullsend.cli import main
from fullsend.resources.load import load_manifests
from fullsend.resources.models import CampaignClass, TlsMode, parse_duration
from fullsend.resources.resolve import resolve

MANIFESTS = Path(__file__).parents[3] / "manifests"
DEMO = MANIFESTS / "demo"
FIRST = MANIFESTS / "samples"
MORE = sorted((FIRST / "more").glob("*.yaml"))


def test_the_demo_is_whole() -> None:
    manifests = load_manifests([DEMO / "campaign.yaml"])
    resolved = resolve(manifests, manifests.campaigns["default", "spring-launch"])
    assert resolved.spec.class_ is CampaignClass.MARKETING
    assert resolved.spec.senders.max_pods == 2
    assert parse_duration(resolved.spec.retry.max_backoff).total_seconds() == 3
    smtp = resolved.transport.spec.smtp
    assert (smtp.host, smtp.port, smtp.tls) == ("127.0.0.1", 2525, TlsMode.DISABLED)
    source = resolved.audiences[0].spec.csv
    assert source is not None
    assert source.file == "recipients.csv"


def test_the_demos_recipients_are_five_thousand_and_not_all_usable() -> None:
    with (DEMO / "recipients.csv").open(encoding="utf-8", newline="") as file:
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


def test_a_plain_apply_of_the_samples_is_one_campaign_to_addresses_that_cannot_be_delivered_to() -> None:
    """``kubectl apply -f FOLDER`` looks into no folder below."""
    manifests = load_manifests(sorted(FIRST.glob("*.yaml")))
    assert [name for _, name in manifests.campaigns] == ["spring-launch"]
    [config_map] = manifests.config_maps.values()
    rows = list(csv.DictReader(config_map.data["recipients.csv"].decode().splitlines()))
    reserved = (".example", "example.com", "example.net", "example.org", "[mail.example]")
    assert len(rows) == 26
    assert all(row["email"].endswith(reserved) for row in rows)


@pytest.mark.parametrize("file", MORE, ids=lambda file: file.stem)
def test_every_other_sample_waits_for_a_person(file: Path) -> None:
    manifests = load_manifests([FIRST])
    here = [campaign for campaign in manifests.campaigns.values() if campaign.place.document.file == file]
    assert all(campaign.spec.suspend for campaign in here)
    assert len(here) == (0 if file.stem == "template" else 1)


@pytest.mark.parametrize("paths", [[FIRST], [DEMO]], ids=["samples", "demo"])
def test_the_samples_are_valid_together(paths: list[Path]) -> None:
    said = CliRunner().invoke(main, ["validate", *map(str, paths)])
    assert (said.exit_code, said.output[:6]) == (0, "valid:"), said.output


def test_no_sample_for_a_cluster_reads_a_file_of_this_machine() -> None:
    sources = [audience.spec.csv for audience in load_manifests([FIRST]).audiences.values()]
    assert all(source is None or source.file is None for source in sources)
