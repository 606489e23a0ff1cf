"""Named queries: each has a name of its own, a description, and numbered parameters."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from fullsend.ledger.named import QUERIES, parse_queries


def test_a_query_is_its_name_its_description_and_its_sql() -> None:
    text = (
        "-- one --\n-- What it does\nSELECT %(a)s, -- why\n    %(b)s + %(a)s;\n\n-- two --\n-- More\nSELECT 5 %% 3;\n"
    )
    queries = parse_queries(text)
    assert queries["one"].description == "What it does"
    assert queries["one"].sql == b"SELECT %(a)s, %(b)s + %(a)s"
    assert queries["one"].positional == b"SELECT $1, $2 + $1"
    assert queries["one"].parameters == ("a", "b")
    assert queries["two"].positional == b"SELECT 5 % 3"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("-- one --\nSELECT 1;", "has no description"),
        ("-- one --\n-- x\nSELECT 1;\n-- one --\n-- y\nSELECT 2;", "defined twice"),
    ],
)
def test_a_query_without_description_or_with_anothers_name_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_queries(text)


def test_every_query_is_used_and_every_use_has_a_query() -> None:
    room = files("fullsend.ledger")
    source = "\n".join(file.read_text("utf-8") for file in room.iterdir() if file.name.endswith(".py"))
    for name in QUERIES:
        assert f'"{name}"' in source, f"query {name} is not used"
    for used in re.findall(r'(?:query|fetch|fetch_one)\(\s*"(\w+)"', source):
        assert used in QUERIES


def test_no_query_contains_a_comment_marker_inside_a_literal() -> None:
    for file in files("fullsend.ledger").joinpath("queries").iterdir():
        for line in file.read_text("utf-8").splitlines():
            assert line.split("--", 1)[0].count("'") % 2 == 0, f"{file.name}: {line}"
