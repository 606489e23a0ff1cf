"""A CSV file as an audience: streamed, strict, and never guessed past an error.

The invariant: every record of the file becomes a row or the plan fails with the record's number. A ragged row, a NUL,
a bad quote or an undecodable byte is an error and not a skip, because a skipped row is a person nobody will miss.
Memory is bounded whatever the file: one line, one field and one chunk of rows have limits.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

from fullsend.audience.sources.base import CHUNK_ROWS, Chunks, SourceRow, find_column, in_thread
from fullsend.errors import SourceError

DELIMITERS: Final = (",", ";", "\t", "|")
MAX_LINE: Final = 1_048_576  # characters; longer is not a table
MAX_FIELD: Final = 131_072  # characters; an unclosed quote swallows the file up to here
_SAMPLE: Final = 1_048_576  # bytes looked at to find the encoding
_GUESS_FROM: Final = 65_536  # bytes of non-ASCII lines given to charset-normalizer (its time grows with them)
_BOMS: Final = (  # UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, slots=True)
class CsvSource:
    """``delimiter`` and ``encoding`` "" mean: find out. Every column but the address's becomes a variable; the values
    of ``id_column`` are also the variable ``id``."""

    path: Path
    column: str = "email"
    delimiter: str = ""
    encoding: str = ""
    id_column: str = ""
    notes: list[str] = field(default_factory=list)

    def chunks(self) -> Chunks:
        return in_thread(self.read())

    def read(self) -> Iterator[list[SourceRow]]:
        """The same, blocking. Row 1 is the header, so that numbers agree with what a spreadsheet shows."""
        encoding = _known(self.encoding) if self.encoding else detect_encoding(self.path)
        if not self.encoding and not encoding.startswith("utf"):
            self.notes.append(f"{self.path.name} is not UTF-8; it was read as {encoding}, a guess: state `encoding`")
        try:
            stream = self.path.open(encoding=encoding, newline="")
        except OSError as error:
            raise SourceError("FileUnreadable", f"{self.path}: {error.strerror}") from error
        with stream:
            reading = _Reading(self.path.name, encoding, stream)
            header = reading.header()
            delimiter = self.delimiter or _detect_delimiter(header, self.column)
            columns = reading.columns(header, delimiter)
            position = find_column(self.column, columns, self.path.name)
            # Columns without a name can't be a variable: spreadsheets write them for empty columns.
            kept = [place for place, name in enumerate(columns) if name and place != position]
            keys = [columns[place] for place in kept]
            if self.id_column:
                place = find_column(self.id_column, columns, self.path.name)
                if "id" not in keys:
                    kept.append(place)
                    keys.append("id")
            chunk: list[SourceRow] = []
            for number, fields in reading.records(delimiter, len(columns)):
                variables = dict(zip(keys, [fields[place] for place in kept], strict=True))
                chunk.append(SourceRow(fields[position], variables, number))
                if len(chunk) >= CHUNK_ROWS:
                    yield chunk
                    chunk = []
            if chunk:
                yield chunk


class _Reading:
    """One pass over one open file; knows where it is, for the error that names it."""

    def __init__(self, name: str, encoding: str, stream: TextIO) -> None:
        self._name = name
        self._encoding = encoding
        self._stream = stream
        self._row = 0  # the last record read
        self._line = 0

    def header(self) -> str:
        """The first record as text, with the lines its quoted fields span."""
        text = ""
        for line in self._lines():
            text += line
            if text.count('"') % 2 == 0 and text.strip():
                return text
            if not text.strip():
                text = ""
        raise SourceError("EmptyAudience", f"{self._name} is empty: not even a header row")

    def columns(self, header: str, delimiter: str) -> list[str]:
        columns = [name.strip() for name in next(self._parse(iter([header]), delimiter))]
        self._row = 1
        named = [name for name in columns if name]
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise SourceError("DuplicateColumn", f"{self._name} has more than one column {', '.join(twice)}")
        return columns

    def records(self, delimiter: str, width: int) -> Iterator[tuple[int, list[str]]]:
        for fields in self._parse(self._lines(), delimiter):
            if not fields:  # an empty line: no record, but a row of the spreadsheet
                self._row += 1
                continue
            if len(fields) != width:
                what = f"has {len(fields)} fields where the header has {width}"
                raise self._error("RaggedRow", f"{what}; a field that contains {delimiter!r} needs quotes")
            self._row += 1
            yield self._row, fields

    def _parse(self, lines: Iterator[str], delimiter: str) -> Iterator[list[str]]:
        # The limit is the interpreter's; nothing else here reads CSV.
        csv.field_size_limit(MAX_FIELD)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        while True:
            try:
                yield next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                hint = "; is a quote left open?" if "field limit" in str(error) or "end of data" in str(error) else ""
                raise self._error("BadCsv", f"can't be read: {error}{hint}") from error

    def _lines(self) -> Iterator[str]:
        while True:
            try:
                line = self._stream.readline(MAX_LINE)
            except UnicodeError as error:
                text = f"or one of the next is not {self._encoding} text; state the file's `encoding`"
                raise self._error("BadEncoding", text) from error
            except OSError as error:
                raise SourceError("FileUnreadable", f"{self._name}: {error.strerror}") from error
            if not line:
                return
            self._line += 1
            if "\0" in line:
                raise self._error("BadCsv", "contains a NUL byte; is the file UTF-16 or not text at all?")
            if len(line) == MAX_LINE and not line.endswith(("\n", "\r")):
                raise self._error("BadCsv", f"is longer than {MAX_LINE} characters")
            yield line

    def _error(self, reason: str, what: str) -> SourceError:
        return SourceError(reason, f"{self._name}, row {self._row + 1} (line {self._line}) {what}")


def detect_encoding(path: Path) -> str:
    """By mark, else UTF-8 if the sample is that, else charset-normalizer's best guess. Raises SourceError."""
    try:
        with path.open("rb") as stream:
            sample = stream.read(_SAMPLE)
    except OSError as error:
        raise SourceError("FileUnreadable", f"{path}: {error.strerror}") from error
    for mark, encoding in _BOMS:
        if sample.startswith(mark):
            return encoding
    if b"\0" in sample[:_GUESS_FROM]:
        # Text in UTF-16 without a mark has a NUL in every second byte, on the side that tells the byte order.
        even, odd = sample[:_GUESS_FROM:2].count(0), sample[1:_GUESS_FROM:2].count(0)
        if odd > 9 * even and odd > len(sample[:_GUESS_FROM]) // 4:
            return "utf-16-le"
        if even > 9 * odd and even > len(sample[:_GUESS_FROM]) // 4:
            return "utf-16-be"
        return "utf-8"  # reading it names the row with the NUL
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)  # incremental: the sample may end inside a character
        return "utf-8"
    except UnicodeDecodeError:
        pass
    telling = b"\n".join(line for line in sample.splitlines() if not line.isascii())[:_GUESS_FROM]
    return _guess(path.name, telling)


def _guess(name: str, sample: bytes) -> str:
    """Short samples read well in several encodings (Greek as Cyrillic, Chinese as Korean), and a wrong guess greets
    thousands of people by a wrong name. So: Windows-1252 (which includes latin-1) if it is among the best readings,
    as browsers assume; another only if it is the one reading without blemish; else the user is asked."""
    # Not at the top: files in UTF-8 need no guess.
    from charset_normalizer import from_bytes

    matches = list(from_bytes(sample))
    if matches:
        best = [match for match in matches if match.chaos == matches[0].chaos]
        if any("cp1252" in match.could_be_from_charset for match in best):
            return "cp1252"
        if len(best) == 1 and best[0].chaos == 0:
            return best[0].encoding
    readable = ", ".join(match.encoding for match in matches[:5]) or "none"
    raise SourceError(
        "BadEncoding",
        f"{name} is not UTF-8, and it can't be told what it is (candidates: {readable}); state `encoding`",
    )


def _known(encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
    except LookupError:
        raise SourceError("BadEncoding", f"{encoding!r} is not the name of an encoding") from None
    # A mark is not part of the first column's name.
    return "utf-8-sig" if name == "utf-8" else name


def _detect_delimiter(header: str, column: str) -> str:
    """The one that makes the address column appear; else the one that makes the most columns."""

    def fields(delimiter: str) -> list[str]:
        try:
            return [name.strip().casefold() for name in next(csv.reader([header], delimiter=delimiter))]
        except csv.Error:
            return []

    candidates = {delimiter: fields(delimiter) for delimiter in DELIMITERS}
    found = [delimiter for delimiter in DELIMITERS if column.casefold() in candidates[delimiter]]
    return max(found or DELIMITERS, key=lambda delimiter: len(candidates[delimiter]))
