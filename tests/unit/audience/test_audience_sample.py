"""The sample is the first rows and an even spread of the rest, whatever their number; the spool finds what it holds."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullsend.audience.sample import Sample
from fullsend.audience.spool import IdentitySpool


def sampled(rows: int, first: int, total: int) -> list[int]:
    sample: Sample[int] = Sample(first, total)
    for row in range(rows):
        sample.offer(row)
    return sample.items


@given(st.integers(0, 5_000), st.integers(0, 20), st.integers(2, 50))
def test_the_sample_is_bounded_ordered_and_holds_the_first(rows: int, first: int, spread: int) -> None:
    found = sampled(rows, first, first + spread)
    assert len(found) <= first + spread
    assert found == sorted(set(found))
    assert found[: min(rows, first)] == list(range(min(rows, first)))


@given(st.integers(100, 20_000))
def test_the_spread_reaches_the_end_in_even_steps(rows: int) -> None:
    spread = sampled(rows, 20, 60)[20:]
    steps = {later - earlier for earlier, later in itertools.pairwise(spread)}
    assert len(steps) == 1
    assert rows - spread[-1] <= max(steps)
    assert len(spread) >= 20


@pytest.mark.parametrize("rows", [0, 1, 199, 200, 1_000])
def test_all_are_in_the_sample_when_they_are_few(rows: int) -> None:
    assert sampled(rows, 200, 1_000) == list(range(rows))


@given(st.dictionaries(st.binary(min_size=16, max_size=16), st.binary(max_size=4), max_size=40))
def test_the_spool_gives_back_what_was_put_in_and_the_first_value_stays(entries: dict[bytes, bytes]) -> None:
    with IdentitySpool() as spool:
        assert spool.put(entries.items()) == len(entries)
        assert spool.put((key, b"later") for key in entries) == 0
        assert spool.find([*entries, b"absent"]) == entries
        assert dict(spool) == entries
        spool.remove(list(entries)[:3])
        assert len(spool) == max(0, len(entries) - 3)


def test_an_empty_spool_finds_nothing() -> None:
    with IdentitySpool() as spool:
        assert spool.find([b"x" * 16]) == {}


def test_more_identities_than_one_query_can_name_are_all_found() -> None:
    keys = [n.to_bytes(16, "big") for n in range(40_000)]
    with IdentitySpool() as spool:
        spool.put((key, b"") for key in keys)
        assert len(spool.find(keys)) == 40_000
