"""What is written to logs, whoever logs it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from fullsend import logs

log = logging.getLogger("fullsend.test")


@pytest.fixture(autouse=True)
def root_logger_left_as_it_was() -> Iterator[None]:
    before = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:], level = before
    logging.root.setLevel(level)


def lines(written: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.readouterr().err.splitlines()]


async def test_what_is_not_read_at_a_terminal_is_json_with_what_it_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()

    async def task(number: int) -> None:
        logs.about(campaign=f"shop/{number}")
        await asyncio.sleep(0)
        log.warning("look %d", number)

    await asyncio.gather(task(1), task(2))
    log.info("outside")
    found = lines(capsys)
    assert [(each["campaign"], each["message"]) for each in found[:2]] == [("shop/1", "look 1"), ("shop/2", "look 2")]
    assert "campaign" not in found[2]
    assert found[0]["level"] == "WARNING"
    assert found[0]["logger"] == "fullsend.test"
    assert found[0]["time"].endswith("Z")


@pytest.mark.parametrize("as_json", [True, False])
def test_no_address_is_written_whoever_names_it(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    logs.configure(as_json=as_json)
    log.warning("550 5.1.1 <jane.doe+news@example.com>: no such user, says %s", "Jörg@bücher.example")
    try:
        raise ValueError("bad row: peter@example.org")
    except ValueError:
        log.exception("planning")
    text = capsys.readouterr().err
    assert "***@example.com" in text
    for part in ("jane", "news", "Jörg", "J\\u00f6rg", "peter"):
        assert part not in text
    assert "bad row: ***@example.org" in text


def test_addresses_stay_where_that_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FULLSEND_LOG_ADDRESSES", "1")
    logs.configure(as_json=True)
    log.warning("to jane@example.com")
    assert lines(capsys)[0]["message"] == "to jane@example.com"
