"""Whatever stands in a manifest: objects that can be used, or every problem with its place, soon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from fullsend.errors import InvalidInput
from fullsend.resources.base import Model
from fullsend.resources.load import KINDS, load_manifests
from fullsend.resources.problems import check
from fullsend.resources.resolve import resolve
from fuzz.fuzzing import bounded, fuzzed, mutated
from support.manifest_texts import AUDIENCE, CAMPAIGN, TRANSPORT

SAMPLE = (Path(__file__).parents[2] / "manifests/samples/campaign.yaml").read_text("utf-8")
SEEDS = [
    text.encode() for text in (AUDIENCE, TRANSPORT, CAMPAIGN, SAMPLE, "---\n".join((AUDIENCE, TRANSPORT, CAMPAIGN)))
]
TOKENS = [
    *(
        b"---\n",
        b"\n",
        b"\t",
        b": ",
        b"- ",
        b"{",
        b"}",
        b"[",
        b"]",
        b"&a ",
        b"*a ",
        b"<<: *a",
        b"!!python/object:x ",
        b"!!set ",
    ),
    *(
        b"|",
        b">",
        b'"',
        b"'",
        b"#",
        b"%YAML 1.1\n",
        b"\0",
        b"\xff",
        b"1e999",
        b".nan",
        b"0x_",
        b"1:60:60",
        b"2001-99-99",
        b"null",
    ),
    *(b"{{ name }}", b"{% if %}", b"5%", b"-1s", b"99999999999999999999h", b"\xed\xa0\x80", b"\xe2\x80\xa8"),
]

DEEP = 3.0
"""Seconds of processor time: the YAML parser looks 1,024 characters ahead at each bracket, and needs 1.3 s to find that
a thousand of them are nested too deeply; more of them cost no more (measured up to 20,000)."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "manifest"


def told(refused: InvalidInput) -> None:
    assert refused.problems
    assert all(problem.what and str(problem) for problem in refused.problems)
    assert str(refused).encode()  # it can be printed


@fuzzed
@given(mutated(SEEDS, TOKENS), st.sampled_from((".yaml", ".yaml", ".yaml", ".json")))
@example(b"[" * 5000, ".yaml")
@example(b"[" * 100_000, ".json")
@example(b"{" * 5000, ".yaml")
@example(b"a: &a [x]\n" + b"".join(b"b%d: &b%d [*a, *a]\n" % (n, n) for n in range(200)), ".yaml")
@example(b"? " * 3000, ".yaml")
@example(b"- " * 3000, ".yaml")
def test_a_manifest_is_used_or_refused_with_every_place_named(file: Path, content: bytes, suffix: str) -> None:
    path = file.with_suffix(suffix)
    path.write_bytes(content)
    with bounded(DEEP):
        try:
            manifests = load_manifests([path])
            for campaign in manifests.campaigns.values():
                resolve(manifests, campaign)
        except InvalidInput as refused:
            told(refused)


def documents() -> list[Any]:
    return [each["spec"] for text in (AUDIENCE, TRANSPORT, CAMPAIGN) for each in YAML(typ="safe").load_all(text)] + [
        each["spec"] for each in YAML(typ="safe").load_all(SAMPLE) if each and "spec" in each
    ]


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["1s", "5%", "0.3%", "24h", "{{ x }}", "relay", "Overlap", "a@b.example", "2030-01-01T00:00:00Z", "\0"]
    )
)
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def specs(draw: st.DrawFn) -> Any:
    """A spec as a user would write it, with a few values put into wrong places, taken away, or doubled."""
    spec = draw(st.sampled_from(documents()))
    for _ in range(draw(st.integers(1, 4))):
        at = spec
        while True:
            if isinstance(at, dict) and at:
                key: Any = draw(st.sampled_from(sorted(at, key=str)))
            elif isinstance(at, list) and at:
                key = draw(st.integers(0, len(at) - 1))
            else:
                break
            if isinstance(at[key], dict | list) and at[key] and draw(st.booleans()):
                at = at[key]
                continue
            how = draw(st.integers(0, 3))
            if how == 0:
                at[key] = draw(anything)
            elif how == 1:
                del at[key]
            elif isinstance(at, list):
                at.append(at[key])
            else:
                at[
                    draw(st.text(max_size=12) | st.sampled_from(["name", "smtp", "retry", "limits", "suspend", "csv"]))
                ] = draw(anything)
            break
    return spec


@fuzzed
@given(st.sampled_from(sorted(KINDS)), specs() | anything)
def test_a_spec_is_a_model_or_findings_with_a_sentence_each(kind: str, spec: Any) -> None:
    with bounded():
        checked = check(KINDS[kind], spec)
        assert isinstance(checked.model, Model) or checked.findings
        for finding in checked.findings:
            assert finding.what
            str(finding)
