"""Whatever order things happen in: nobody is missed, nobody gets more than the stated copies, and it ends.

The walks have fixed seeds, so a failure, which names its seed, is repeated by
``python -c "from simulated_walk import walk; walk(17, 300)"`` in this folder.
"""

from __future__ import annotations

from collections import Counter

from simulated_walk import walk

from fullsend.reconcile.situation import Situation

WALKS = 1900
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


def test_walks_keep_every_invariant_end_and_reach_every_situation_and_every_action(tried: Counter[str]) -> None:
    """A walk that never gets anywhere proves nothing, so what they reached is part of the claim."""
    seen: Counter[str] = Counter()
    for seed in range(WALKS):
        try:
            world = walk(seed, STEPS)
        except Exception as error:
            error.add_note(f"in walk {seed}")
            raise
        seen.update(world.seen)
        tried["walks"] += 1
        tried["steps checked"] += world.steps
        tried["decisions"] += sum(count for name, count in world.seen.items() if name.startswith("situation:"))
        tried["restores"] += world.seen["restore"]
    missed = {situation for situation in Situation if not seen[f"situation:{situation}"]} - NOT_WALKED
    assert not missed
    assert not {action for action in EXPECTED_ACTIONS if not seen[action]}


def test_the_same_seed_takes_the_same_walk() -> None:
    first, second = walk(4, STEPS), walk(4, STEPS)
    assert first.seen == second.seen
    assert first.describe() == second.describe()
