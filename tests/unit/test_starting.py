"""What a process loads before it does anything: each campaign starts a planner and a sender, so a parser that neither
uses is paid for hundreds of times when many campaigns begin at once, and the operator carries it for months."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"charset_normalizer", "inscriptis", "jinja2", "kubernetes", "lxml", "ruamel.yaml"}


@pytest.mark.parametrize(
    ("program", "needed"),
    [
        ("fullsend.audience.__main__", set()),
        ("fullsend.message.limits", set()),
        ("fullsend.sender.__main__", {"jinja2"}),
        ("fullsend.controller.operator", set()),
    ],
)
def test_a_process_starts_with_none_of_the_parsers_that_it_may_never_use(program: str, needed: set[str]) -> None:
    tell = f"import json, sys, {program}; print(json.dumps(list(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", tell], check=True, capture_output=True, timeout=60)
    assert HEAVY & set(json.loads(told.stdout)) == needed
