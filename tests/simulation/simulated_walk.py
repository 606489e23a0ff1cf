"""A walk through the world: moves drawn by weight from a seed. The same seed takes the same walk."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from simulated_sender import Behaviour
from simulated_world import MAX_PODS, MAX_RESENDS, START, World

from fullsend.ledger.view import Phase
from fullsend.states import DeliveryState

S = DeliveryState
Move = Callable[[World, random.Random], object]

LEAPS = tuple(timedelta(seconds=seconds) for seconds in (1, 1, 3, 6, 6, 15, 31, 61, 61, 300, 3600))
REOPENINGS: tuple[tuple[DeliveryState, ...], ...] = (
    (S.REJECTED,),
    (S.HELD,),
    (S.EXPIRED, S.CANCELLED),
    (S.REJECTED, S.EXPIRED, S.HELD, S.CANCELLED, S.UNRENDERABLE),
)


def _operator(world: World, dice: random.Random) -> None:
    world.operators[dice.randrange(2)].step()


def _turn(world: World, dice: random.Random) -> None:
    world.operators[dice.randrange(2)].turn()


def _sender(world: World, dice: random.Random) -> None:
    world.sender_step(dice.randrange(8), dice.choice(world.weather), dice.randrange(2))


def _senders(world: World, dice: random.Random) -> None:
    """A stretch of undisturbed work, so that walks get far."""
    behaviour = dice.choice(world.weather)
    for _ in range(dice.randrange(12)):
        world.sender_step(dice.randrange(8), behaviour, dice.randrange(2))
        world.check()


def _lose_answer(world: World, dice: random.Random) -> None:
    world.lose_next_answer = True


def _database(world: World, dice: random.Random) -> None:
    world.database_up = not world.database_up if dice.random() < 0.5 else True


def _reopen(world: World, dice: random.Random) -> None:
    world.reopen(f"r{dice.randrange(4)}", dice.choice(REOPENINGS))


def _deadline(world: World, dice: random.Random) -> None:
    world.edit(deadline=dice.choice([None, None, world.now + timedelta(hours=2), START + timedelta(minutes=10)]))


def _start_at(world: World, dice: random.Random) -> None:
    world.edit(start_at=dice.choice([None, world.now + timedelta(minutes=2)]))


def _rollout(world: World, dice: random.Random) -> None:
    world.edit(rollout_first=dice.choice([None, 1, 3]), rollout_approved=dice.random() < 0.5)


def _references(world: World, dice: random.Random) -> None:
    if world.desired.problems:
        world.heal_references()
    elif dice.random() < 0.3:
        world.edit(control=None, problems=("MailTransport relay is not there",))


def _purge(world: World, dice: random.Random) -> None:
    campaign = world.ledger.campaign
    if campaign is not None and campaign.finished_at is not None and dice.random() < 0.05:
        campaign.phase = Phase.PURGED
        campaign.revision += 1


WORK: tuple[tuple[int, str, Move], ...] = (
    (30, "operator step", _operator),
    (10, "operator turn", _turn),
    (40, "sender step", _sender),
    (14, "senders work", _senders),
    (12, "time passes", lambda world, dice: world.advance(dice.choice(LEAPS))),
    (6, "plan step", lambda world, dice: world.plan_step(dies=dice.random() < 0.1, fails=dice.random() < 0.1)),
)
FAULTS: tuple[tuple[int, str, Move], ...] = (
    (2, "operator dies", lambda world, dice: world.operators[dice.randrange(2)].crash()),
    (3, "sender dies", lambda world, dice: world.kill_sender(dice.randrange(8))),
    (3, "sender freezes", lambda world, dice: world.freeze_sender(dice.randrange(8), frozen=True)),
    (3, "sender wakes", lambda world, dice: world.freeze_sender(dice.randrange(8), frozen=False)),
    (3, "answer lost", _lose_answer),
    (2, "database", _database),
    (1, "status forgotten", lambda world, dice: world.forget_status()),
    (1, "snapshot", lambda world, dice: world.take_snapshot()),
    (1, "restore", lambda world, dice: world.restore(dice.randrange(4))),
)
PEOPLE: tuple[tuple[int, str, Move], ...] = (
    (2, "suspend", lambda world, dice: world.edit(suspend=not world.desired.suspend)),
    (2, "acknowledge", lambda world, dice: world.acknowledge()),
    (1, "reopen", _reopen),
    (1, "deadline", _deadline),
    (1, "start at", _start_at),
    (1, "rollout", _rollout),
    (1, "references", _references),
    (1, "resends", lambda world, dice: world.allow_resends(dice.randint(0, MAX_RESENDS))),
    (1, "somebody says no", lambda world, dice: world.suppress(dice.randrange(1, 9))),
    (1, "pods", lambda world, dice: world.edit(max_pods=dice.randint(1, MAX_PODS))),
    (1, "purge", _purge),
    (1, "cancel", lambda world, dice: world.edit(cancel=dice.random() < 0.3)),
)


def climate(dice: random.Random) -> tuple[list[Move], list[int], list[str]]:
    """Which moves this walk is made of: where everything happens at once, nothing gets far."""
    faults, people = dice.choice([(1, 0), (3, 0), (0, 2), (1, 1), (2, 2), (1, 1)])
    moves = [*((w, n, m) for w, n, m in WORK), *((w * faults, n, m) for w, n, m in FAULTS)]
    moves += [(w * people, n, m) for w, n, m in PEOPLE]
    return [m for _, _, m in moves], [w for w, _, _ in moves], [n for _, n, _ in moves]


def weather(dice: random.Random) -> list[Behaviour]:
    """What the relay tends to do in this walk."""
    bad = dice.sample(
        [behaviour for behaviour in Behaviour if behaviour is not Behaviour.ACCEPT], dice.choice([0, 1, 2, 4])
    )
    return [Behaviour.ACCEPT] * dice.choice([1, 2, 6]) + bad


def states_of(dice: random.Random) -> list[DeliveryState]:
    count = dice.choice([0, 1, 2, 3, 5, 8])
    return dice.choices([S.PENDING, S.SUPPRESSED, S.INVALID], weights=[8, 1, 1], k=count)


def walk(seed: int, steps: int, **broken: Any) -> World:
    """Walk, then let faults stop and see it end. Raises ``Broken`` with the first claim that does not hold."""
    dice = random.Random(seed)
    states = states_of(dice)
    poison = frozenset(seq for seq in range(1, len(states) + 1) if dice.random() < 0.05)
    world = World(states, poison=poison, **broken)
    world.weather = weather(dice)
    if dice.random() < 0.7:
        world.begin()
    moves, weights, names = climate(dice)
    for index in dice.choices(range(len(moves)), weights=weights, k=steps):
        moves[index](world, dice)
        world.seen[f"move:{names[index]}"] += 1
        world.check()
    if dice.random() < 0.3:
        world.rest()
    world.live_on(wake=dice.random() < 0.5)
    return world
