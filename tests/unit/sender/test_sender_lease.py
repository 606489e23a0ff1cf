"""A sender that cannot be sure of its session starts no content."""

from fullsend.sender.lease import Lease


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_content_may_start_until_half_of_the_lease_has_passed():
    clock = Clock()
    lease = Lease(60.0, clock)
    clock.now += 29.9
    assert lease.may_start_content
    clock.now += 0.2
    assert not lease.may_start_content


def test_a_confirmed_heart_beat_counts_from_when_it_was_sent():
    clock = Clock()
    lease = Lease(60.0, clock)
    asked = lease.asking()
    clock.now += 25.0  # the answer took its time
    lease.confirm(asked)
    clock.now += 6.0
    assert not lease.may_start_content


def test_a_late_answer_never_shortens_the_lease():
    clock = Clock()
    lease = Lease(60.0, clock)
    early = lease.asking()
    clock.now += 10.0
    lease.confirm(lease.asking())
    lease.confirm(early)
    clock.now += 25.0
    assert lease.may_start_content


def test_a_fenced_sender_starts_nothing_whatever_the_clock_says():
    lease = Lease(60.0, Clock())
    lease.fence()
    assert lease.fenced
    assert not lease.may_start_content
