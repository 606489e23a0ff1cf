"""Whatever order things happen in: nobody is missed, nobody gets more than the stated copies, and it ends.

The walks have fixed seeds, so a failure is repeated by its number:  pytest -k 'walks and 17'  or
``python -c "from simulated_walk import walk; walk(17, 300)"`` in this folder.
"""

from __future__ import annotations

from collections import Counter

import pytest
from simulated_walk import walk

from fullsend.reconcile.situation import Situation

BATCHES = 20
WALKS = 60
STEPS = 300

EXPECTED_ACTIONS = {
    "Register",
    "StartPlan",
    "StopPlan",
    "WriteControl",
    "EnsureSenders",
    "StopSenders",
    "Sweep",
    "EndRows",
    "RequestReopen",
    "CarryOutReopen",
    "Prove",
    "Finish",
    "AcknowledgeHalt",
    "Halt",
    "Emit",
}
NOT_WALKED = {
    Situation.LEDGER_BROKEN,  # as unreachable, for decide
    Situation.OWNED_ELSEWHERE,
    Situation.CONFLICT,  # both are decided by the shell's look, and nothing is done in them
}
_seen: Counter[str] = Counter()
pytestmark = pytest.mark.xdist_group("walks")  # they are summed up, so one worker takes them all


@pytest.mark.parametrize("batch", range(BATCHES))
def test_walks_keep_every_invariant_and_end(batch: int, tried: Counter[str]) -> None:
    for seed in range(batch * WALKS, (batch + 1) * WALKS):
        world = walk(seed, STEPS)
        _seen.update(world.seen)
        tried["walks"] += 1
        tried["steps checked"] += world.steps
        tried["decisions"] += sum(count for name, count in world.seen.items() if name.startswith("situation:"))
        tried["restores"] += world.seen["restore"]


def test_the_walks_reached_every_situation_and_every_action() -> None:
    """A walk that never gets anywhere proves nothing."""
    if _seen["Register"] == 0:
        pytest.skip("needs the walks of this module")
    missed = {situation for situation in Situation if not _seen[f"situation:{situation}"]} - NOT_WALKED
    assert not missed
    assert not {action for action in EXPECTED_ACTIONS if not _seen[action]}


def test_the_same_seed_takes_the_same_walk() -> None:
    first, second = walk(4, STEPS), walk(4, STEPS)
    assert first.seen == second.seen
    assert first.describe() == second.describe()
