"""Cleaning tells what a plan would make of each row, and changes nothing."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from fullsend.audience.cleaning import CleanReport, clean
from fullsend.audience.sources.csv_file import CsvSource
from fullsend.audience.sources.inline import InlineSource


async def test_each_row_that_would_not_be_mailed_is_named_with_its_problem(tmp_path: Path) -> None:
    path = tmp_path / "june.csv"
    path.write_text("email\nann@x.de\nANN@X.de\noops\n\nabuse@x.de\nbob@x.de\n=cmd()\n")
    before = path.read_bytes()
    out = io.StringIO()
    report = await clean(CsvSource(path), out)
    assert report == CleanReport(rows=6, usable=2, invalid=2, role=1, duplicate=1)
    found = list(csv.reader(io.StringIO(out.getvalue())))
    assert found[0] == ["row", "address", "problem", "detail"]
    assert [line[:3] for line in found[1:]] == [
        ["3", "ANN@X.de", "duplicate"],
        ["4", "oops", "invalid"],
        ["6", "abuse@x.de", "role"],
        ["8", "'=cmd()", "invalid"],
    ]
    assert found[1][3] == "the same person as row 2"
    assert found[2][3].startswith("NoAtSign: ")
    assert path.read_bytes() == before


async def test_a_clean_source_has_no_findings() -> None:
    out = io.StringIO()
    report = await clean(InlineSource([("ann@x.de", {}), ("bob@x.de", {})]), out)
    assert report == CleanReport(rows=2, usable=2)
    assert out.getvalue().splitlines() == ["row,address,problem,detail"]
