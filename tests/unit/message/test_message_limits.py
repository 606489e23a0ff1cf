"""Somebody else's template runs in a process that can be lost, and the answer is always a clear one."""

from __future__ import annotations

import subprocess
import sys
import time
from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest

from fullsend.errors import InvalidInput
from fullsend.message.compile import compile_message
from fullsend.message.compiled import Recipient
from fullsend.message.limits import RenderFailure, check_limited, compile_limited, run_limited
from fullsend.message.source import Attachment, MessageSource, source_to_json

SOURCE = MessageSource(
    campaign="spring", class_="Transactional", from_address="a@example.com", subject="S", text="Hello {{ name }}\n"
)
JANE = Recipient("jane@example.org", "t", {"name": "Jane"})


def test_a_message_compiles_the_same_as_in_this_process() -> None:
    source = replace(SOURCE, html="<p>{{ name }} é</p>", attachments=(Attachment("a", "a/b", b"\0" * 1_000_000),))
    assert compile_limited(source) == compile_message(source)


def test_problems_come_back_as_they_are() -> None:
    broken = replace(SOURCE, subject="{{ x", text="{% y %}")
    with pytest.raises(InvalidInput) as here:
        compile_message(broken)
    with pytest.raises(InvalidInput) as there:
        compile_limited(broken)
    assert there.value.problems == here.value.problems


def test_each_recipient_without_a_message_is_named() -> None:
    failures = check_limited(compile_message(SOURCE), [JANE, Recipient("joe@example.org", "u"), JANE])
    assert failures == [RenderFailure(1, "text, line 1: 'name' is undefined")]


def test_a_huge_value_costs_little_time_and_memory() -> None:
    start = time.monotonic()
    source = source_to_json(replace(SOURCE, text="{{ 'a' * 500000000 }}"))
    compiled = run_limited("compile", source, memory_bytes=200 * 2**20)
    recipients = [["jane@example.org", "t", {"name": "Jane"}]]
    payload = {"compiled": compiled, "recipients": recipients}
    ((_, why),) = run_limited("check", payload, memory_bytes=200 * 2**20)
    assert why == "text, line 1: * would make a value of more than 4,000,000 characters"
    assert time.monotonic() - start < 10


def test_memory_beyond_the_limit_is_the_templates_fault() -> None:
    source = replace(SOURCE, attachments=(Attachment("a", "a/b", b"\0" * 19_000_000),))
    with pytest.raises(InvalidInput, match="needs more than 200 MB of memory"):
        run_limited("compile", source_to_json(source), memory_bytes=200 * 2**20)


def test_a_process_that_dies_without_an_answer_is_reported_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(InvalidInput, match="needs more than 768 MB of memory, or more time than it may take"):
        compile_limited(SOURCE)


def test_time_beyond_the_limit_is_the_templates_fault() -> None:
    compiled = compile_limited(
        replace(SOURCE, text="{% for a in range(9999) %}{% set x = range(9999)|sort %}{% endfor %}")
    )
    recipients = [["jane@example.org", "t", {"name": "Jane"}]]
    payload = {"compiled": b64encode(compiled.to_bytes()).decode("ascii"), "recipients": recipients}
    with pytest.raises(InvalidInput, match="takes longer than 1 seconds"):
        run_limited("check", payload, seconds=1)


def test_the_process_gets_no_environment_and_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    environments: list[object] = []

    class Spy(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            environments.append(kwargs["env"])
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Spy)
    slow = compile_message(replace(SOURCE, text="{% for a in range(9999) %}{% set x = range(9999)|sort %}{% endfor %}"))
    payload = {"compiled": b64encode(slow.to_bytes()).decode("ascii"), "recipients": [["j@example.org", "t", {}]]}
    compile_limited(SOURCE)
    with pytest.raises(InvalidInput):
        run_limited("check", payload, seconds=0.5)
    assert environments == [{}, {}]
    assert [child.returncode for child in started] == [0, -9]
