"""What a sender may record, and the text it may carry."""

from __future__ import annotations

import json

import pytest

from fullsend.ledger.flush import RECORDABLE, Record, _array, _told, clean
from fullsend.states import OPEN, DeliveryState, Seq


def test_a_reply_with_nul_bad_surrogates_or_too_much_of_it_can_be_stored() -> None:
    assert clean("a\x00b") == "a\ufffdb"
    assert clean("a\ud800b\u00e9") == "a?b\u00e9"
    assert len(clean("x" * 5000)) == 1000


@pytest.mark.parametrize("state", sorted(set(DeliveryState) - RECORDABLE))
def test_a_sender_cannot_record_a_state_that_is_not_an_outcome(state: DeliveryState) -> None:
    with pytest.raises(ValueError, match="cannot record"):
        _told([Record(Seq(1), 1, state)])


def test_every_recordable_state_is_an_outcome_of_an_attempt() -> None:
    assert {DeliveryState.DEFERRED, DeliveryState.UNKNOWN} == RECORDABLE & OPEN


def test_a_record_travels_without_its_defaults() -> None:
    told = json.loads(_told([Record(Seq(7), 2, DeliveryState.ACCEPTED, code=250, text="2.0.0 ok", content_sent=True)]))
    assert told == [{"seq": 7, "n": 2, "state": "accepted", "sent": True, "code": 250, "text": "2.0.0 ok"}]
    assert _array([3, 1, 2]) == "{3,1,2}"
