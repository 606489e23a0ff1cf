"""Manifest files are read as kubectl reads them, and one broken document hides nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fullsend.resources.documents import read_documents


def read(tmp_path: Path, text: str | bytes, name: str = "a.yaml") -> tuple[list[Any], list[str]]:
    data = text.encode() if isinstance(text, str) else text
    (tmp_path / name).write_bytes(data)
    documents, problems = read_documents([tmp_path / name])
    return [document.value for document in documents], [str(item).replace(f"{tmp_path}/", "") for item in problems]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("off", False),
        ("Off", False),
        ("yes", True),
        ("y", True),
        ("~", None),
        ("", None),
        ("010", 8),
        ("0x1f", 31),
        ("1_000", 1000),
        ("-7", -7),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("12:30:00", "12:30:00"),
        ("2026-06-01", "2026-06-01"),
        ("2026-06-01T09:00:00Z", "2026-06-01T09:00:00Z"),
        (".inf", ".inf"),
        ("0b2", "0b2"),
        ("'off'", "off"),
        ('"010"', "010"),
        ("!!str off", "off"),
        ("!!str 5", "5"),
        ("<<", "<<"),
        ("nothing", "nothing"),
    ],
)
def test_a_bare_word_means_what_it_means_to_kubectl(tmp_path: Path, written: str, meant: Any) -> None:
    values, problems = read(tmp_path, f"key: {written}\n")
    assert problems == []
    assert values == [{"key": meant}]
    assert type(values[0]["key"]) is type(meant)


def test_documents_are_numbered_by_what_they_hold_and_lines_by_the_file(tmp_path: Path) -> None:
    text = "# a comment\n---\n---\na:\n  b: [1, {c: 2}]\n---\n# nothing\n--- # second\n\nd: 4\n"
    (tmp_path / "a.yaml").write_text(text)
    documents, problems = read_documents([tmp_path])
    assert problems == []
    assert [(item.number, item.value) for item in documents] == [(1, {"a": {"b": [1, {"c": 2}]}}), (2, {"d": 4})]
    assert documents[0].lines[("a", "b", 1, "c")] == 5
    assert documents[1].lines[("d",)] == 10


def test_a_separator_inside_a_block_of_text_is_text(tmp_path: Path) -> None:
    values, problems = read(tmp_path, "text: |\n  above\n  ---\n  below\n")
    assert (values, problems) == ([{"text": "above\n---\nbelow\n"}], [])


def test_each_broken_document_is_reported_and_the_others_are_read(tmp_path: Path) -> None:
    values, problems = read(tmp_path, "a: 1\n---\nb: [\n---\nc: 3\n---\n\td: 4\n---\ne: 5\ne: 6\n---\nf: !secret x\n")
    assert values == [{"a": 1}, {"c": 3}]
    assert problems[0].startswith("a.yaml:4:1, document 2: is not YAML")
    assert "a tab cannot indent" in problems[1]
    assert problems[2] == "a.yaml:10:1, document 5: the key 'e' is given twice (first in line 9)"
    assert problems[3] == "a.yaml:12:4, document 6: the tag !secret is not known here"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"a: 1\nb: \xe9\n", "a.yaml:2:4: is not UTF-8: byte 0xe9"),
        ("a: 1\nb: x\0\n", "a.yaml:2:5: holds a NUL character"),
        ("a: 1\nb: x\x07\n", "a.yaml:2:5, document 1: holds a character that YAML does not allow: U+0007"),
        ("a: 1".encode("utf-16"), "a.yaml:1:1: is UTF-16; save it as UTF-8"),
        ("a: &x [*x]\n", "a.yaml:1:4, document 1: an alias holds itself"),
        ("1: a\n", "a.yaml:1:1, document 1: the key 1 is not text in YAML; quote it"),
        ("no: a\n", "a.yaml:1:1, document 1: the key no is not text in YAML; quote it"),
        ("a: {b: 1, b: 2}\n", "a.yaml:1:11, document 1: the key 'b' is given twice (first in line 1)"),
    ],
)
def test_what_cannot_be_read_is_named_with_line_and_column(tmp_path: Path, data: str | bytes, problem: str) -> None:
    assert read(tmp_path, data) == ([], [problem])


def test_a_byte_order_mark_and_windows_line_ends_are_no_trouble(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbfa: 1\r\n---\r\nb: 2\r\n") == ([{"a": 1}, {"b": 2}], [])


def test_aliases_and_merge_keys_are_written_out(tmp_path: Path) -> None:
    values, problems = read(tmp_path, "a: &a {p: 1, q: 2}\nb: {<<: *a, q: 3}\nc: *a\n")
    assert problems == []
    assert values == [{"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 3}, "c": {"p": 1, "q": 2}}]


def test_aliases_of_aliases_cannot_exhaust_the_memory(tmp_path: Path) -> None:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
    )
    values, problems = read(tmp_path, laughs)
    assert values == []
    assert "holds more than 200000 values" in problems[0]


def test_a_reused_anchor_is_no_warning(tmp_path: Path) -> None:
    assert read(tmp_path, "a: &x 1\nb: &x 2\nc: *x\n") == ([{"a": 1, "b": 2, "c": 2}], [])


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    assert "nested too deeply" in read(tmp_path, "[" * 2000)[1][0]
    assert "nested too deeply" in read(tmp_path, "[" * 200_000, "a.json")[1][0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' is given twice"),
        ('{"a": }', "a.json:1:7: is not JSON"),
        ('{"a": NaN}', "NaN is not a number in JSON"),
        ('{"a": 1e999}', "1e999 is not a number in JSON"),
    ],
)
def test_json_is_as_strict(tmp_path: Path, text: str, problem: str) -> None:
    values, problems = read(tmp_path, text, "a.json")
    assert values == []
    assert problem in problems[0]


def test_a_folder_is_searched_and_a_file_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("b.yml", "deep/c.yaml", ".hidden/d.yaml", "e.txt", "deep/f.json"):
        (tmp_path / name).write_text(json.dumps({"file": name}))
    documents, problems = read_documents([tmp_path, tmp_path / "b.yml"])
    assert problems == []
    assert [item.value["file"] for item in documents] == ["b.yml", "deep/c.yaml", "deep/f.json"]


def test_missing_files_and_empty_folders_are_problems(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    assert "no manifests found" in str(read_documents([tmp_path / "empty"])[1][0])
    assert "no manifests found" in str(read_documents([])[1][0])
    missing, looping = read_documents([tmp_path / "nope.yaml", tmp_path / "loop.yaml"])[1]
    assert "No such file" in str(missing)
    assert "cannot be read" in str(looping)
