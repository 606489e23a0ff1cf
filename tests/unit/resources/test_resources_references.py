"""What objects name in one another is there and fit for its use, before anything is planned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fullsend.errors import InvalidInput
from fullsend.resources.document import Document
from fullsend.resources.load import assemble, load_manifests
from fullsend.resources.manifests import Manifests
from fullsend.resources.resolve import resolve
from support.manifest_texts import AUDIENCE, CAMPAIGN, TRANSPORT

Load = Callable[..., Manifests]
Refused = Callable[..., list[str]]

TEMPLATE = """
apiVersion: fullsend.dev/v1alpha1
kind: MailTemplate
metadata: {name: spring-mail}
spec:
  from: {address: team@mail.example}
  subject: From the template
  html: <a href="{{ unsubscribe_url }}">Unsubscribe</a>
  headers: {X-Season: spring, X-Kept: "yes"}
"""
BY_REFERENCE = """
apiVersion: fullsend.dev/v1alpha1
kind: Campaign
metadata: {name: spring}
spec:
  audiences: [{name: newsletter}]
  transportRef: {name: relay}
  messageRef: {name: spring-mail}
  unsubscribe: {url: "https://mail.example/u?t={{ token }}", oneClick: true, listId: news.mail.example}
"""
WITH_LOGIN = """
apiVersion: fullsend.dev/v1alpha1
kind: MailTransport
metadata: {name: relay}
spec:
  smtp: {host: smtp.mail.example, credentialsSecretRef: {name: login}, caSecretRef: {name: ca}}
"""


def secret(name: str, kind: str, **data: str) -> str:
    entries = "".join(f"  {key.replace('_', '.')}: {json.dumps(value)}\n" for key, value in data.items())
    return f"apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: {kind}\nstringData:\n{entries}"


CA = secret("ca", "fullsend.dev/smtp-ca", ca_crt="-----BEGIN CERTIFICATE-----\n")


def test_each_name_that_leads_nowhere_is_reported(refused: Refused) -> None:
    campaign = BY_REFERENCE.replace(
        "newsletter}]", "newsletters}, {name: other}]\n  exclude: [{audienceRef: {name: staff}}]"
    )
    problems = refused(AUDIENCE, TRANSPORT.replace("{name: relay}", "{name: relay, namespace: mail}"), campaign)
    assert [each.split(", ", 2)[2] for each in problems] == [
        "spec.audiences[0].name: there is no Audience newsletters in namespace default (did you mean newsletter?)",
        "spec.audiences[1].name: there is no Audience other in namespace default (there: newsletter)",
        "spec.exclude[0].audienceRef.name: there is no Audience staff in namespace default (there: newsletter)",
        "spec.transportRef.name: there is no MailTransport relay in namespace default (there is one in namespace mail, "
        "but names are looked up in the object's own namespace)",
        "spec.messageRef.name: there is no MailTemplate spring-mail in namespace default (there is none at all)",
    ]


def test_the_effective_message_is_the_template_as_the_campaign_changes_it(load: Load) -> None:
    changed = (
        BY_REFERENCE + "  message: {subject: Mine, headers: {x-season: late}, replyTo: {address: me@mail.example}}\n"
    )
    manifests = load(AUDIENCE, TRANSPORT, TEMPLATE, changed)
    message = resolve(manifests, manifests.campaigns["default", "spring"]).message
    assert message.from_.address == "team@mail.example"
    assert message.subject == "Mine"
    assert message.reply_to is not None
    assert message.html == '<a href="{{ unsubscribe_url }}">Unsubscribe</a>'
    assert message.headers == {"x-season": "late", "X-Kept": "yes"}


def test_what_neither_template_nor_campaign_gives_is_missed(refused: Refused) -> None:
    (problem,) = refused(
        AUDIENCE, TRANSPORT, TEMPLATE.replace("  from: {address: team@mail.example}\n", ""), BY_REFERENCE
    )
    assert problem.endswith(
        "spec.message.from: is required (neither the Campaign nor MailTemplate spring-mail gives it)"
    )


def test_the_body_is_the_template_s_alone(refused: Refused) -> None:
    problems = refused(AUDIENCE, TRANSPORT, TEMPLATE, BY_REFERENCE + "  message: {text: mine}\n")
    assert "spec.message.text: comes from the MailTemplate spring-mail" in problems[0]


def test_a_template_without_a_visible_link_is_refused_for_marketing_only(refused: Refused, load: Load) -> None:
    bare = TEMPLATE.replace("unsubscribe_url", "shop_url")
    (problem,) = refused(AUDIENCE, TRANSPORT, bare, BY_REFERENCE)
    assert "spec.messageRef: spec.html of MailTemplate spring-mail must show the unsubscribe link" in problem
    load(AUDIENCE, TRANSPORT, bare, BY_REFERENCE.replace("spec:", "spec:\n  class: Transactional"))


def test_secrets_are_judged_by_type_and_key_when_they_are_given(refused: Refused, load: Load) -> None:
    bad = secret("login", "fullsend.dev/smtp-credentials", user="a")
    good = secret("login", "fullsend.dev/smtp-credentials", username="a", password="b")
    load(AUDIENCE, WITH_LOGIN, CAMPAIGN, good, CA)
    load(AUDIENCE, WITH_LOGIN, CAMPAIGN)  # they are in the cluster
    (problem,) = refused(AUDIENCE, WITH_LOGIN, CAMPAIGN, secret("login", "Opaque", username="a", password="b"), CA)
    assert problem.endswith("Secret login is of type Opaque (type must be fullsend.dev/smtp-credentials)")
    problems = refused(AUDIENCE, WITH_LOGIN, CAMPAIGN, bad, CA)
    assert problems[0].endswith("Secret login has no key username (there: user)")
    assert problems[1].endswith("Secret login has no key password (there: user)")
    (problem,) = refused(AUDIENCE, WITH_LOGIN, CAMPAIGN, good)
    assert problem.endswith("there is no Secret ca in namespace default (there: login)")


@pytest.mark.parametrize(("value", "what"), [("b\n", "ends with a line break"), (" ", "is empty")])
def test_a_password_that_cannot_be_right_is_refused_without_being_shown(
    refused: Refused, value: str, what: str
) -> None:
    login = secret("login", "fullsend.dev/smtp-credentials", username="a", password=value)
    (problem,) = refused(AUDIENCE, WITH_LOGIN, CAMPAIGN, login, CA)
    assert f"key password of Secret login {what}" in problem


def test_a_postgres_audience_needs_its_own_type_of_secret(refused: Refused) -> None:
    audience = AUDIENCE.split("spec:")[0] + "spec: {postgres: {dsnSecretRef: {name: login}, query: SELECT 1}}"
    login = secret("login", "fullsend.dev/smtp-credentials", username="a", password="b")
    (problem,) = refused(audience, TRANSPORT, CAMPAIGN, login)
    assert problem.endswith(
        "Secret login is of type fullsend.dev/smtp-credentials (type must be fullsend.dev/postgres-dsn)"
    )


def test_config_maps_and_their_keys_must_be_among_the_files(refused: Refused, load: Load) -> None:
    audience = AUDIENCE.split("spec:")[0] + "spec: {csv: {configMapKeyRef: {name: people, key: june.csv}}}"
    people = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: people}\ndata: {june.csv: email}"
    load(audience, TRANSPORT, CAMPAIGN, people)
    (problem,) = refused(audience, TRANSPORT, CAMPAIGN)
    assert "there is no ConfigMap people in namespace default" in problem
    (problem,) = refused(audience, TRANSPORT, CAMPAIGN, people.replace("june", "jun"))
    assert problem.endswith("ConfigMap people has no key june.csv (did you mean jun.csv?)")
    attached = CAMPAIGN.replace(
        "  unsubscribe:\n",
        "    attachments: [{name: a.pdf, contentType: application/pdf, "
        "configMapKeyRef: {name: people, key: a.pdf}}]\n  unsubscribe:\n",
    )
    (problem,) = refused(audience, TRANSPORT, attached, people)
    assert "spec.message.attachments[0].configMapKeyRef.key: ConfigMap people has no key a.pdf" in problem


def test_a_csv_file_is_looked_for_beside_its_manifest_and_named_from_the_campaign(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "mail").mkdir()
    audience = AUDIENCE.split("spec:")[0] + "spec: {csv: {file: people.csv}}"
    (tmp_path / "lists" / "audience.yaml").write_text(audience)
    (tmp_path / "mail" / "campaign.yaml").write_text(f"{TRANSPORT}\n---\n{CAMPAIGN}")
    with pytest.raises(InvalidInput, match=r"spec.csv.file: .*/lists/people.csv does not exist"):
        load_manifests([tmp_path])
    (tmp_path / "lists" / "people.csv").write_text("email\n")
    manifests = load_manifests([tmp_path])
    resolved = resolve(manifests, manifests.campaigns["default", "spring"])
    csv = resolved.audiences[0].spec.csv
    assert csv is not None
    assert csv.file == "../lists/people.csv"
    assert resolved.base_dir == tmp_path / "mail"


def test_a_cluster_refuses_local_files_and_does_not_judge_what_it_was_not_given() -> None:
    def item(kind: str, name: str, spec: dict[str, object]) -> Document:
        head = {"apiVersion": "fullsend.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": "x"}}
        return Document(None, 1, {**head, "spec": spec})

    message = {"from": {"address": "a@mail.example"}, "subject": "s", "text": "t"}
    spec = {"class": "Transactional", "audiences": [{"name": "n"}], "transportRef": {"name": "r"}, "message": message}
    relay = item("MailTransport", "r", {"smtp": {"host": "h", "credentialsSecretRef": {"name": "elsewhere"}}})
    local = item("Audience", "n", {"csv": {"file": "people.csv"}})
    manifests, problems = assemble([relay, local, item("Campaign", "c", spec)])
    assert problems == []
    with pytest.raises(InvalidInput) as caught:
        resolve(manifests, manifests.campaigns["x", "c"])
    assert [str(each) for each in caught.value.problems] == [
        "Audience x/n, spec.csv.file: is only for runs without a cluster (use claim or configMapKeyRef)"
    ]
    claimed = item("Audience", "n", {"csv": {"configMapKeyRef": {"name": "elsewhere", "key": "k"}}})
    manifests, _ = assemble([relay, claimed, item("Campaign", "c", spec)])
    assert resolve(manifests, manifests.campaigns["x", "c"]).base_dir is None


def test_resolve_gathers_everything_a_campaign_names(load: Load) -> None:
    staff = AUDIENCE.replace("newsletter", "staff")
    campaign = CAMPAIGN.replace("metadata: {name: spring}", "metadata: {name: spring}").replace(
        "spec:\n", "spec:\n  ledgerKey: spring-2026\n  exclude: [{audienceRef: {name: staff}}, {ledgerKey: winter}]\n"
    )
    manifests = load(AUDIENCE, staff, TRANSPORT, campaign)
    resolved = resolve(manifests, manifests.campaigns["default", "spring"])
    assert (resolved.name, resolved.ledger_key) == ("spring", "spring-2026")
    assert [each.name for each in resolved.audiences] == ["newsletter"]
    assert [each.name for each in resolved.excludes] == ["staff"]
    assert resolved.exclude_campaigns == ("winter",)
    assert resolved.transport.spec.smtp.host == "smtp.mail.example"


def test_a_campaign_cannot_exclude_itself_or_its_own_audience(refused: Refused) -> None:
    own = CAMPAIGN.replace("spec:\n", "spec:\n  exclude: [{ledgerKey: spring}]\n")
    (problem,) = refused(AUDIENCE, TRANSPORT, own)
    assert problem.endswith("spec.exclude[0].ledgerKey: is this campaign's own key")
    own = CAMPAIGN.replace("spec:\n", "spec:\n  exclude: [{audienceRef: {name: newsletter}}]\n")
    (problem,) = refused(AUDIENCE, TRANSPORT, own)
    assert "newsletter is also in audiences" in problem
