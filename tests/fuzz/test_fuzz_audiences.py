"""Whatever a file or an address holds: rows or a named refusal, identities or a named reason, soon."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fullsend.audience.identity import InvalidAddress, normalise
from fullsend.audience.sources.csv_file import CsvSource
from fullsend.errors import SourceError
from fuzz.fuzzing import bounded, fuzzed, mutated, named

ADDRESSES = [
    text.encode()
    for text in (
        "ada@example.org",
        "Ada.Lovelace+news@EXAMPLE.org",
        "grüße@bücher.example",
        "user@xn--bcher-kva.example",
        '"quoted local"@example.org',
        "user@[192.0.2.1]",
        "Ada <ada@example.org>",
        "a@b",
        "用户@例子.广告",
        "İstanbul@example.org",
        "ada@example.org.",
        "a" * 64 + "@" + "b" * 63 + ".example",
    )
]
ADDRESS_TOKENS = [
    b"@",
    b".",
    b"..",
    b"-",
    b" ",
    b"\t",
    b"\0",
    b"xn--",
    b"\xe2\x80\x8b",
    b"\xef\xbb\xbf",
    b'"',
    b"<",
    b">",
]
addresses = (mutated(ADDRESSES, ADDRESS_TOKENS) | st.binary(max_size=60)).map(
    lambda data: data.decode("utf-8", "replace")
)


@fuzzed
@given(addresses | st.text(max_size=400))
@example("\ud800@example.org")
@example("a@\ud800.example")
@example("@" * 1000)
@example("a@" + "xn--a." * 300)
@example("a@" + "ü" * 5000)
def test_an_address_has_one_identity_or_a_reason_with_a_name(address: str) -> None:
    with bounded():
        try:
            found = normalise(address)
        except InvalidAddress as refused:
            named(refused.reason, str(refused))
            return
        assert found.domain.isascii()
        assert found.wire.count("@") >= 1
        assert found.wire.endswith(f"@{found.domain}")
        assert len(found.wire.encode()) <= 254
        assert not any(char in found.wire for char in "\r\n\0 ")
        again = normalise(found.wire)
        assert (again.identity, again.domain) == (found.identity, found.domain)
        assert normalise(found.identity).identity == found.identity


TABLES = [
    b"email,name\nada@example.org,Ada\nbob@example.org,Bob\n",
    b'name;email\r\n"Ada; L.";ada@example.org\r\n"Bob ""B""";bob@example.org\r\n',
    b"email\tname\tcity\na@x.example\tA\tUlm\n\nb@x.example\tB\t\n",
    "email,näme\nada@example.org,Grüße\n".encode("latin-1"),
    "email,name\nada@example.org,\u4f60\u597d\n".encode("utf-16"),
    b"\xef\xbb\xbfemail|name\nada@example.org|Ada",
    b'email,name\nada@example.org,"two\nlines"\n',
    b"E-Mail,email,Email\na,b@x.example,c\n",
]
TABLE_TOKENS = [
    b",",
    b";",
    b"\t",
    b"|",
    b"\n",
    b"\r",
    b"\r\n",
    b'"',
    b'""',
    b"\0",
    b"\xff",
    b"email",
    b"\xfe\xff",
    b"\xc3",
]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "people.csv"


@fuzzed
@given(
    mutated(TABLES, TABLE_TOKENS) | st.binary(max_size=200),
    st.sampled_from(("email", "name", "E-Mail", "")),
    st.sampled_from(("", "", "", ",", ";", "\t")),
    st.sampled_from(("", "", "", "utf-8", "latin-1", "utf-16", "cp1252", "no-such-encoding")),
    st.sampled_from(("", "", "name", "email")),
)
@example(b"", "email", "", "", "")
@example(b'email\n"', "email", "", "", "")
@example(b"email\n" + b'"' * 2000, "email", "", "", "")
@example(b"email" + b"," * 100_000, "email", "", "", "")
def test_a_table_is_read_to_its_end_or_refused_by_name(
    file: Path, content: bytes, column: str, delimiter: str, encoding: str, id_column: str
) -> None:
    file.write_bytes(content)
    with bounded():
        source = CsvSource(file, column, delimiter, encoding, id_column)
        try:
            rows = [row for chunk in source.read() for row in chunk]
        except SourceError as refused:
            named(refused.reason, str(refused))
            return
        numbers = [row.row for row in rows]
        assert numbers == sorted(set(numbers))
        assert not numbers or numbers[0] >= 2
        assert len({tuple(row.variables) for row in rows}) <= 1
