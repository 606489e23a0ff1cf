"""A CSV file becomes all of its rows, or an error that says where it can't be read."""

from __future__ import annotations

import csv
import io
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fullsend.audience.sources.base import CHUNK_ROWS, SourceRow
from fullsend.audience.sources.csv_file import MAX_FIELD, CsvSource
from fullsend.errors import SourceError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "june.csv"


def rows(path: Path, content: bytes | str, **settings: str) -> list[SourceRow]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [row for chunk in CsvSource(path, **settings).read() for row in chunk]


def failure(path: Path, content: bytes | str, **settings: str) -> SourceError:
    with pytest.raises(SourceError) as caught:
        rows(path, content, **settings)
    return caught.value


def test_every_other_column_is_a_variable(path: Path) -> None:
    assert rows(path, "name,email,city\nAnn,ann@x.de,Ulm\n") == [
        SourceRow("ann@x.de", {"name": "Ann", "city": "Ulm"}, 2)
    ]


def test_rows_are_numbered_as_a_spreadsheet_shows_them(path: Path) -> None:
    found = rows(path, 'email,name\na@x.de,"two\nlines"\n\nb@x.de,Bob\n')
    assert [row.row for row in found] == [2, 4]
    assert found[0].variables == {"name": "two\nlines"}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_line_end_ends_a_row(path: Path, end: str) -> None:
    assert len(rows(path, end.join(["email", "a@x.de", "b@x.de"]))) == 2


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found_by_the_column_it_makes_appear(path: Path, delimiter: str) -> None:
    header = delimiter.join(["name, given", "Email", "note; or so"])
    quoted = delimiter.join(f'"{name}"' for name in ["name, given", "Email", "note; or so"])
    for line in (header, quoted) if delimiter not in ",;" else (quoted,):
        found = rows(path, f"{line}\n{delimiter.join(['Ann', 'ann@x.de', 'x'])}\n")
        assert [row.address for row in found] == ["ann@x.de"]


def test_a_given_delimiter_is_obeyed(path: Path) -> None:
    assert rows(path, "email^a,b\nx@x.de^1,2\n", delimiter="^")[0].variables == {"a,b": "1,2"}


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252"]
)
@pytest.mark.parametrize("given", [True, False])
def test_the_encoding_is_found_or_given(path: Path, encoding: str, given: bool) -> None:
    text = "email,name\nann@x.de,José Müller\nbob@x.de,Zoë Groß\n"
    found = rows(path, text.encode(encoding), **({"encoding": encoding} if given else {}))
    assert [row.variables["name"] for row in found] == ["José Müller", "Zoë Groß"]
    assert [row.address for row in found] == ["ann@x.de", "bob@x.de"]


def test_a_guessed_encoding_is_told(path: Path) -> None:
    path.write_bytes("email,name\nann@x.de,Müller\n".encode("latin-1"))
    source = CsvSource(path)
    list(source.read())
    assert "june.csv is not UTF-8; it was read as cp1252, a guess" in source.notes[0]


def test_what_can_be_read_in_several_ways_is_not_guessed(path: Path) -> None:
    error = failure(path, "email,name\nann@x.de,Γιώργος Παπαδόπουλος\n".encode("iso8859-7"))
    assert error.reason == "BadEncoding"
    assert "state `encoding`" in str(error)


def test_a_byte_that_is_not_of_the_encoding_is_an_error_however_late(path: Path) -> None:
    late = b"email,name\n" + b"a@x.de,Ann\n" * 200_000 + "b@x.de,J\u00fcrg\n".encode("latin-1")
    error = failure(path, late)
    assert error.reason == "BadEncoding"
    assert "not utf-8 text" in str(error)


@pytest.mark.parametrize(
    ("content", "reason", "said"),
    [
        ("", "EmptyAudience", "not even a header row"),
        ("\n\n \n", "EmptyAudience", "not even a header row"),
        ("email,name\na@x.de,Ann,more\n", "RaggedRow", "row 2 (line 2) has 3 fields where the header has 2"),
        ("email,name\na@x.de,Ann\nb@x.de\n", "RaggedRow", "row 3 (line 3) has 1 fields"),
        ("email,name,name\n", "DuplicateColumn", "more than one column name"),
        ("e-mail,name\n", "MissingColumn", "its columns are e-mail, name; did you mean 'e-mail'?"),
        ("emial,name\n", "MissingColumn", "did you mean 'emial'?"),
        ("ann@x.de,Ann\n", "MissingColumn", "a header row with the names of the columns is required"),
        ("email,name\na@x.de,A\0nn\n", "BadCsv", "row 2 (line 2) contains a NUL byte"),
        ('email,name\na@x.de,"Ann\nb@x.de,Bob\n', "BadCsv", "is a quote left open?"),
        ('email,name\na@x.de,"Ann"x\n', "BadCsv", "row 2"),
        ("email,name\na@x.de," + "x" * (MAX_FIELD + 1), "BadCsv", "field larger than field limit"),
        ("email,name\na@x.de," + "x" * 1_100_000, "BadCsv", "is longer than 1048576 characters"),
        ('email,name\na@x.de,"' + "x\n" * 200_000, "BadCsv", "is a quote left open?"),
    ],
)
def test_what_cannot_be_read_is_an_error_with_its_place(path: Path, content: str, reason: str, said: str) -> None:
    error = failure(path, content)
    assert error.reason == reason
    assert "june.csv" in str(error)
    assert said in str(error)


def test_a_wrong_column_name_says_which_there_are(path: Path) -> None:
    error = failure(path, "mail_address,name\nx,y\n", column="mail_adress")
    assert str(error) == (
        "june.csv has no column 'mail_adress'; its columns are mail_address, name; did you mean 'mail_address'?"
    )


def test_the_column_may_differ_by_case_alone_if_only_one_does(path: Path) -> None:
    assert rows(path, "EMail\nann@x.de\n")[0].address == "ann@x.de"
    assert failure(path, "EMail,EMAIL\na,b\n").reason == "MissingColumn"
    assert rows(path, "Email,email\na,b\n")[0].address == "b"


def test_an_id_column_is_also_the_variable_id(path: Path) -> None:
    assert rows(path, "email,no\na@x.de,17\n", id_column="no")[0].variables == {"no": "17", "id": "17"}
    assert rows(path, "email,no,id\na@x.de,17,x\n", id_column="no")[0].variables == {"no": "17", "id": "x"}
    assert failure(path, "email\na@x.de\n", id_column="no").reason == "MissingColumn"


def test_columns_without_a_name_are_left_out(path: Path) -> None:
    assert rows(path, "email,name,,\na@x.de,Ann,,\n")[0].variables == {"name": "Ann"}


def test_an_unknown_encoding_is_refused_by_name(path: Path) -> None:
    assert "'klingon' is not the name of an encoding" in str(failure(path, "email\n", encoding="klingon"))


def test_a_missing_file_is_a_source_error(path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        list(CsvSource(path).read())


FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=8), st.sampled_from(",;\t|"))
def test_what_a_csv_writer_writes_is_read_back(path: Path, records: list[tuple[str, str]], delimiter: str) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerow(["email", "name"])
    writer.writerows(records)
    found = rows(path, text.getvalue(), delimiter=delimiter, encoding="utf-8")
    assert [(row.address, row.variables["name"]) for row in found] == records


def test_a_file_is_never_whole_in_memory(path: Path) -> None:
    with path.open("w") as out:
        out.write("email,name\n")
        out.writelines(f"user{n}@example.com,{'x' * 80}\n" for n in range(100_000))
    tracemalloc.start()
    try:
        read = sum(len(chunk) for chunk in CsvSource(path).read())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read == 100_000
    assert path.stat().st_size > 10_000_000
    assert peak < 3_000 * CHUNK_ROWS + 3_000_000


async def test_chunks_are_the_same_rows_without_blocking(path: Path) -> None:
    content = "email\n" + "".join(f"u{n}@x.de\n" for n in range(CHUNK_ROWS * 2 + 1))
    expected = rows(path, content)
    chunks = [chunk async for chunk in CsvSource(path).chunks()]
    assert [row for chunk in chunks for row in chunk] == expected
    assert [len(chunk) for chunk in chunks] == [CHUNK_ROWS, CHUNK_ROWS, 1]
