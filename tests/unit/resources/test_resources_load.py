"""Whatever is wrong with a manifest is said at once, with its place, in the user's own words."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fullsend.errors import InvalidInput, Problem
from fullsend.resources.campaign import CampaignClass
from fullsend.resources.document import Document
from fullsend.resources.documents import read_documents
from fullsend.resources.load import assemble, load_manifests
from fullsend.resources.manifests import Manifests
from support.manifest_texts import AUDIENCE, CAMPAIGN, TRANSPORT

Load = Callable[..., Manifests]
Refused = Callable[..., list[str]]


def test_the_kinds_are_keyed_by_namespace_and_name(load: Load, tmp_path: Path) -> None:
    manifests = load(
        AUDIENCE.replace("name: newsletter", "name: newsletter, namespace: news"),
        TRANSPORT,
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: news}",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: aGk=, b: aGk=}\nstringData: {b: there}",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {t: Zoë}\nbinaryData: {b: AAE=}",
    )
    assert list(manifests.audiences) == [("news", "newsletter")]
    assert list(manifests.transports) == [("default", "relay")]
    assert manifests.transports["default", "relay"].base_dir == tmp_path
    assert manifests.secrets["default", "s"].data == {"a": b"hi", "b": b"there"}
    assert manifests.config_maps["default", "c"].data == {"t": "Zoë".encode(), "b": b"\0\1"}


def test_secret_data_is_in_no_repr(load: Load) -> None:
    manifests = load("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {password: hunter2}")
    assert "hunter2" not in repr(manifests)


def test_what_kubectl_get_writes_can_be_read_again(load: Load, tmp_path: Path) -> None:
    items = [read_back(text, tmp_path) for text in (AUDIENCE, TRANSPORT, CAMPAIGN)]
    for item in items:
        item["metadata"] |= {
            "uid": "1",
            "resourceVersion": "2",
            "creationTimestamp": "2026-06-01T09:00:00Z",
            "generation": 1,
            "managedFields": [],
        }
    items[2]["status"] = {"state": "Sending"}
    items[2]["spec"]["suspend"] = None
    (tmp_path / "list.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    manifests = load_manifests([tmp_path / "list.json"])
    assert manifests.campaigns["default", "spring"].spec.class_ is CampaignClass.MARKETING


def read_back(text: str, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "one.yaml").write_text(text)
    value: dict[str, Any] = read_documents([tmp_path / "one.yaml"])[0][0].value
    (tmp_path / "one.yaml").unlink()
    return value


def test_every_problem_of_every_document_is_reported_at_once(refused: Refused) -> None:
    problems = refused(
        CAMPAIGN.replace("  audiences", "  suspend: 'no'\n  audiences").replace("name: relay", "name: rely"),
        AUDIENCE.replace("email:", "emial:").replace("variables", "id: 7, variables"),
        TRANSPORT.replace("host:", "tls: Off, host:"),
        "kind: Deployment\napiVersion: apps/v1\nmetadata: {name: web}",
        "a: [",
    )
    assert problems == [
        "all.yaml:41:5, document 5: is not YAML: expected the node content, but found '<stream end>'",
        "all.yaml:6, document 1 (Campaign spring), spec.suspend: must be true or false, not text",
        "all.yaml:26, document 2 (Audience newsletter), spec.inline.recipients[0].id: must be text, not a number "
        "(quote it)",
        "all.yaml:26, document 2 (Audience newsletter), spec.inline.recipients[0].emial: is not a field here "
        "(did you mean email?)",
        "all.yaml:34, document 3 (MailTransport relay), spec.smtp.tls: must be one of Disabled, Opportunistic, "
        "StartTLS, Implicit (a bare yes, no, on, off, true or false is not text in YAML)",
        "all.yaml:37, document 4 (Deployment web), kind: unknown kind Deployment "
        "(known: Campaign, Audience, MailTemplate, MailTransport, Secret, ConfigMap, Namespace)",
        "all.yaml:8, document 1 (Campaign spring), spec.transportRef.name: there is no MailTransport rely in namespace "
        "default (did you mean relay?)",
    ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("kind: Audience", "kind: audience"), "kind: unknown kind audience (did you mean Audience?)"),
        (("kind: Audience", "knid: Audience"), "kind: is required"),
        (("v1alpha1", "v1"), "apiVersion: is 'fullsend.dev/v1'; Audience is of fullsend.dev/v1alpha1"),
        (("apiVersion: fullsend.dev/v1alpha1", ""), "apiVersion: is required (write fullsend.dev/v1alpha1)"),
        (("metadata: {name: newsletter}", ""), "metadata: is required: it holds the name"),
        (("{name: newsletter}", "newsletter"), "metadata: must be an object that holds the name"),
        (("{name: newsletter}", "{}"), "metadata.name: is required"),
        (("{name: newsletter}", "{name: 7}"), "metadata.name: must be text (quote it)"),
        (("{name: newsletter}", "{name: News_Letter}"), "metadata.name: 'News_Letter' is not a name"),
        (("{name: newsletter}", "{name: " + "n" * 254 + "}"), "metadata.name: is 254 characters long, at most 253"),
        (
            ("{name: newsletter}", "{name: news, namspace: x}"),
            "metadata.namspace: is not a field here (did you mean nam",
        ),
        (("{name: newsletter}", "{name: news, namespace: a.b}"), "metadata.namespace: 'a.b' is not a name"),
        (("{name: newsletter}", "{name: news, labels: {a: 1}}"), "metadata.labels.a: must be text (quote it)"),
        (("{name: newsletter}", "{name: news, annotations: [x]}"), "metadata.annotations: must be an object"),
        (("\nspec:", "\nspecs:"), "specs: is not a field here (did you mean spec?)"),
        (("inline:", "inlin:"), "spec.inlin: is not a field here (did you mean inline?)"),
        (
            ("inline:", "csv: {file: x.csv}\n  inline:"),
            "spec: needs exactly one of inline, csv, list, postgres; ",
        ),
        (
            ("  inline:", "  roleAddresses: suppress\n  inline:"),
            "'suppress' is not one of Suppress, Allow (did you m",
        ),
    ],
)
def test_an_object_that_is_not_understood_is_refused_by_name(
    refused: Refused, change: tuple[str, str], problem: str
) -> None:
    problems = refused(AUDIENCE.replace(*change))
    assert any(problem in each for each in problems), problems
    assert len([each for each in problems if "kind" not in each and "apiVersion" not in each]) <= 1, problems


def test_a_campaign_name_leaves_room_for_job_names(refused: Refused, load: Load) -> None:
    load(AUDIENCE, TRANSPORT, CAMPAIGN.replace("name: spring", f"name: {'s' * 52}"))
    problems = refused(AUDIENCE, TRANSPORT, CAMPAIGN.replace("name: spring", f"name: {'s' * 53}"))
    assert problems == [
        f"all.yaml:22, document 3 (Campaign {'s' * 53}), metadata.name: is 53 characters long, at most 52 are allowed"
    ]


def test_an_object_declared_twice_names_both_places(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text(AUDIENCE)
    (tmp_path / "second.yaml").write_text(AUDIENCE)
    with pytest.raises(InvalidInput) as caught:
        load_manifests([tmp_path])
    (problem,) = caught.value.problems
    assert problem.where == f"{tmp_path}/second.yaml:4, document 1 (Audience newsletter), metadata.name"
    assert problem.what == "newsletter is declared twice in namespace default"
    assert problem.fix == f"first in {tmp_path}/first.yaml, document 1"


def test_documents_that_are_no_objects_are_refused(refused: Refused) -> None:
    assert all("must be an object with apiVersion, kind and metadata" in each for each in refused("[1]", "text", "7"))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("data: {a: 'not base64'}", "data.a: is not base64 (plain text goes into stringData)"),
        ("stringData: {a: 7}", "stringData.a: must be text (quote it)"),
        ("stringData: {'a/b': x}", "stringData.a/b: 'a/b' is not a key"),
        ("stringDta: {a: x}", "stringDta: is not a field here (did you mean stringData?)"),
        ("data: [x]", "data: must be an object of names and values"),
    ],
)
def test_a_secret_is_checked_without_showing_it(refused: Refused, data: str, problem: str) -> None:
    (found,) = refused(f"apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n{data}")
    assert problem in found
    assert "not base64'" not in found


def test_a_rule_across_fields_is_judged_beside_a_broken_field(refused: Refused) -> None:
    text = CAMPAIGN.replace("oneClick: true", "oneClick: false").replace(
        "subject: Hello {{ first_name }}", "subject: 7"
    )
    problems = refused(AUDIENCE, TRANSPORT, text.replace("unsubscribe_url", "link"))
    assert [each.split(", ", 2)[2] for each in problems] == [
        "spec.message.subject: must be text, not a number (quote it)",
        "spec.message.html: must show the unsubscribe link of class Marketing: use {{ unsubscribe_url }} in it",
        "spec.unsubscribe.oneClick: must be true for class Marketing (RFC 8058)",
    ]


def test_what_a_broken_field_decides_is_left_unsaid(refused: Refused) -> None:
    (problem,) = refused(AUDIENCE, TRANSPORT, CAMPAIGN.replace("oneClick: true", "oneclick: true"))
    assert problem.endswith("spec.unsubscribe.oneclick: is not a field here (did you mean oneClick?)")


def test_a_broken_object_still_exists_for_those_who_name_it(refused: Refused) -> None:
    problems = refused(AUDIENCE.replace("email:", "mail:"), TRANSPORT, CAMPAIGN)
    assert len(problems) == 1
    assert "recipients[0].mail" in problems[0]


def test_a_field_in_the_wrong_place_is_told_where_it_belongs(refused: Refused) -> None:
    (problem,) = refused(AUDIENCE, TRANSPORT, CAMPAIGN.replace("  audiences", "  minBackoff: 1m\n  audiences"))
    assert problem.endswith("spec.minBackoff: is not a field here (it belongs to retry)")


@pytest.mark.parametrize("value", [None, True, 7, 2.5, "", "x", "\n", [], ["x"], {}, {"x": 1}, [None], [{"x": {}}]])
def test_no_wrong_value_anywhere_crashes_the_loader(tmp_path: Path, value: Any) -> None:
    """Each field in turn takes each kind of wrong value: problems are raised with a place, never another error."""
    transport = TRANSPORT.replace("smtp.mail.example", "smtp.mail.example, timeouts: {dot: 1m}") + (
        "  limits: {rates: [{messages: 1, per: 1s}]}\n  replyRules: [{code: 450, charge: Transport}]\n"
    )
    campaign = CAMPAIGN + (
        "  exclude: [{ledgerKey: winter}]\n  schedule: {startAt: '2026-06-01T09:00:00Z'}\n  rollout: {first: 5}\n"
        "  retry: {minBackoff: 1s, maxBackoff: 2s}\n  reopen: {id: a, states: [held]}\n"
        "  senders: {pod: {resources: {requests: {cpu: 1}}, tolerations: [{key: a}], labels: {a: b}}}\n"
        "  failurePolicy: {maxRejected: 1%}\n  completion: {tolerate: {held: 1%}}\n"
    )
    whole = [read_back(text, tmp_path) for text in (AUDIENCE, transport, campaign)]
    assert assemble([Document(None, 1, item) for item in whole])[1] == []
    tried = 0
    for index, item in enumerate(whole):
        for path in paths(item):
            changed = copy.deepcopy(whole)
            replace(changed[index], path, value)
            file = tmp_path / "changed.json"
            file.write_text(json.dumps({"kind": "List", "apiVersion": "v1", "items": changed}))
            problems = refusal(file)
            assert all(problem.where.startswith(str(file)) and problem.what for problem in problems)
            tried += 1
    assert tried > 70


def refusal(file: Path) -> tuple[Problem, ...]:
    try:
        load_manifests([file])
    except InvalidInput as error:
        return error.problems
    return ()


def paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from paths(item, (*path, key))


def replace(value: Any, path: tuple[str | int, ...], new: Any) -> None:
    for part in path[:-1]:
        value = value[part]
    value[path[-1]] = new


def test_an_object_of_an_api_server_is_named_without_a_file() -> None:
    value = {
        "apiVersion": "fullsend.dev/v1alpha1",
        "kind": "Audience",
        "metadata": {"name": "n", "namespace": "x"},
        "spec": {"csv": {}},
    }
    _, problems = assemble([Document(None, 1, value)])
    assert str(problems[0]) == "Audience x/n, spec.csv: needs exactly one of configMapKeyRef, file, claim; found none"


def test_base64_with_line_breaks_is_base64(load: Load) -> None:
    text = base64.encodebytes(b"x" * 100).decode().replace("\n", "\n    ")
    manifests = load(f"apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\ndata:\n  a: |\n    {text}")
    assert manifests.secrets["default", "s"].data == {"a": b"x" * 100}


@pytest.mark.parametrize(("text", "what"), [("\\0", "holds a NUL character"), ("\\ud83d", "holds half a character")])
def test_text_that_no_database_can_hold_is_refused_where_it_is(tmp_path: Path, text: str, what: str) -> None:
    value = json.loads('"' + text.replace("\\0", "\\u0000") + '"')
    items = [read_back(each, tmp_path) for each in (AUDIENCE, TRANSPORT, CAMPAIGN)]
    items[0]["spec"]["inline"]["recipients"][0]["variables"]["note"] = [value]
    items[2]["spec"]["message"]["text"] = "{{ unsubscribe_url }}" + value
    _, problems = assemble([Document(None, 1, item) for item in items])
    assert [str(each).split(" (")[0] for each in problems] == [
        f"Audience default/newsletter, spec.inline.recipients[0].variables.note[0]: {what}",
        f"Campaign default/spring, spec.message.text: {what}",
    ]


def test_a_name_cannot_steer_the_terminal_it_is_shown_on(tmp_path: Path) -> None:
    item = read_back(AUDIENCE, tmp_path)
    item["spec"]["\x1b[2J"] = 1
    item["kind"] = "Audi\x07ence"
    _, problems = assemble([Document(None, 1, item)])
    assert all(str(problem).isprintable() for problem in problems)
    item["kind"] = "Audience"
    _, problems = assemble([Document(None, 1, item)])
    assert any(r"spec.\x1b[2J: is not a field here" in str(problem) for problem in problems)
