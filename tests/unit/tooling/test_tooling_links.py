"""Every link in the pages leads somewhere, and the README leads to every page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Where the page leads within this repository: a file or folder, and the heading or ""."""
    for to in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", to):
            path, _, heading = to.partition("#")
            yield (page.parent / path).resolve() if path else page, heading


def headings(page: Path) -> set[str]:
    """As a forge makes anchors of them."""
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
    found = re.findall(r"(?m)^#+ (.*)$", text)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_leads_somewhere(page: Path) -> None:
    dead = [
        f"{to}#{heading}"
        for to, heading in links(page)
        if not to.exists() or (heading and to.suffix == ".md" and heading not in headings(to))
    ]
    assert dead == []


def test_the_readme_leads_to_every_page_and_to_the_folder_of_decisions() -> None:
    led = {to for to, _ in links(ROOT / "README.md")}
    missed = [
        page for page in PAGES if page != ROOT / "README.md" and page not in led and page.parent not in led - {ROOT}
    ]
    assert missed == []
