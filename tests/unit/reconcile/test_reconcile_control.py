"""What is declared arrives at the senders: durations as seconds, percents as shares, secrets as names."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from fullsend.ledger.control import Control, Rate
from fullsend.reconcile.control import desired_from, desired_unresolved, relay_control
from fullsend.resources.load import load_manifests
from fullsend.resources.resolve import ResolvedCampaign, resolve
from fullsend.resources.transport import MailTransportSpec
from fullsend.smtp.classify import reply_rules
from fullsend.smtp.settings import Pipelining, Tls
from fullsend.states import DeliveryState

MANIFEST = """
apiVersion: fullsend.dev/v1alpha1
kind: Campaign
metadata: {name: spring}
spec:
  class: Transactional
  audiences: [{name: people}]
  message: {from: {address: news@mail.example, name: News}, subject: Spring, text: "Hello"}
  transportRef: {name: relay}
  schedule: {startAt: "2026-05-04T12:00:00Z", deadline: "2026-05-06T12:00:00Z"}
  rollout: {first: 500}
  senders: {maxPods: 4}
  retry: {minBackoff: 10m, maxBackoff: 1h30m, expireAfter: 2d, maxUnknownResends: 0}
  limits: {rates: [{messages: 200, per: 1s}, {messages: 10000, per: 1h}]}
  failurePolicy: {maxRejected: "0.3%", minSample: 100}
  completion: {tolerate: {held: "1%"}}
  acknowledgedHalt: h-1
  reopen: {id: again, states: [rejected, held]}
---
apiVersion: fullsend.dev/v1alpha1
kind: Audience
metadata: {name: people}
spec:
  inline: {recipients: [{email: ada@example.org}]}
---
apiVersion: fullsend.dev/v1alpha1
kind: MailTransport
metadata: {name: relay}
spec:
  smtp:
    host: relay.example
    port: 465
    tls: Implicit
    credentialsSecretRef: {name: relay-login}
    caSecretRef: {name: relay-ca}
    serverName: mx.example
    heloName: us.example
    authMechanism: PLAIN
    pipelining: Group
    verp: true
    timeouts: {connect: 5s, reply: 1m, dot: 2m}
  limits: {connections: 12, messagesPerConnection: 100, rates: [{messages: 5, per: 1s}], pool: shared}
  replyRules: [{code: 550, pattern: "blocked", charge: Sender, permanent: true}]
---
apiVersion: v1
kind: Secret
metadata: {name: relay-login}
type: fullsend.dev/smtp-credentials
stringData: {username: u, password: p}
---
apiVersion: v1
kind: Secret
metadata: {name: relay-ca}
type: fullsend.dev/smtp-ca
stringData: {ca.crt: x}
"""


@pytest.fixture
def resolved(tmp_path: Path) -> ResolvedCampaign:
    (tmp_path / "campaign.yaml").write_text(MANIFEST)
    manifests = load_manifests([tmp_path / "campaign.yaml"])
    return resolve(manifests, manifests.campaigns[("default", "spring")])


def test_everything_declared_arrives_in_the_units_of_the_senders(resolved: ResolvedCampaign) -> None:
    desired = desired_from(resolved, generation=3)
    control = desired.control
    assert control is not None
    assert (control.start_at, control.deadline) == (
        datetime(2026, 5, 4, 12, tzinfo=UTC),
        datetime(2026, 5, 6, 12, tzinfo=UTC),
    )
    relay = control.relay
    assert (relay.name, relay.host, relay.port, relay.tls, relay.pipelining) == (
        "relay",
        "relay.example",
        465,
        "Implicit",
        "Group",
    )
    assert (relay.credentials_secret, relay.ca_secret) == ("relay-login", "relay-ca")
    assert (relay.server_name, relay.helo_name, relay.auth_mechanism) == ("mx.example", "us.example", "PLAIN")
    assert (relay.connections, relay.messages_per_connection, relay.pool, relay.verp) == (12, 100, "shared", True)
    assert (relay.connect_timeout, relay.reply_timeout, relay.dot_timeout) == (5.0, 60.0, 120.0)
    assert relay.return_path == "news@mail.example"
    assert relay.rates == (Rate(messages=5, seconds=1),)
    retry = control.retry
    assert (retry.min_backoff, retry.max_backoff, retry.expire_after, retry.max_unknown_resends) == (
        600.0,
        5400.0,
        172800.0,
        0,
    )
    assert control.rates == (Rate(messages=200, seconds=1), Rate(messages=10000, seconds=3600))
    assert (control.max_rejected, control.min_sample) == (pytest.approx(0.003), 100)


def test_the_wish_has_what_may_be_edited_while_it_runs(resolved: ResolvedCampaign) -> None:
    desired = desired_from(resolved, generation=3)
    assert (desired.generation, desired.max_pods, desired.connections, desired.fresh_limit) == (3, 4, 12, 500)
    assert desired.acknowledged_halt == "h-1"
    assert desired.reopen is not None
    assert desired.reopen.states == (DeliveryState.REJECTED, DeliveryState.HELD)
    assert dict(desired.tolerance.limits)[DeliveryState.HELD] == pytest.approx(0.01)
    assert not desired.suspend
    assert desired_from(resolved, emergency_stop=True).suspend


def test_the_control_survives_the_way_through_the_ledger(resolved: ResolvedCampaign) -> None:
    control = desired_from(resolved).control
    assert control is not None
    assert Control.from_json(control.to_json()) == control


def test_an_unresolved_campaign_can_still_be_suspended_and_cancelled(resolved: ResolvedCampaign) -> None:
    desired = desired_unresolved(resolved.spec.model_copy(update={"cancel": True}), ("relay is not there",))
    assert desired.control is None
    assert desired.cancel
    assert desired.problems == ("relay is not there",)


def test_the_words_for_no_tls_and_no_pipelining_are_those_of_the_session() -> None:
    spec = MailTransportSpec.model_validate(
        {"smtp": {"host": "127.0.0.1", "port": 25, "tls": "Disabled", "pipelining": "Disabled"}}
    )
    relay = relay_control("relay", spec, return_path="news@mail.example")
    assert (Tls(relay.tls), Pipelining(relay.pipelining)) == (Tls.OFF, Pipelining.OFF)


def test_reply_rules_are_understood_by_the_classifier(resolved: ResolvedCampaign) -> None:
    control = desired_from(resolved).control
    assert control is not None
    assert len(reply_rules(control.relay.reply_rules)) == 1
