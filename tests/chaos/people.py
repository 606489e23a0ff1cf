"""Who is on the list of a run of chaos, made from its seed, and what is to become of each; told apart by their address.

Beside ordinary people the list has what lists have: the same person twice, in other letters and from another row;
addresses that can't be used; people who had said no before. The checker takes its word for who is eligible from here,
not from the plan.
"""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass
from pathlib import Path

UNUSABLE = ("", "nobody", "two@at@example.com", "spaces in@example.com", "dots..dots@example.com", "x@-bad-.example")

DOMAINS = ("example.com", "example.net", "post.example", "mail.example")


@dataclass(frozen=True)
class People:
    """Addresses in lower case. ``eligible`` are to get the message once; ``said_no_before`` are on the list too."""

    eligible: tuple[str, ...]
    said_no_before: tuple[str, ...]
    rows: int

    @classmethod
    def written(cls, size: int, seed: int, file: Path) -> People:
        """``size`` eligible people and some 3% of others, as a CSV file."""
        dice = random.Random(f"people {seed}")
        eligible = [f"user{number:07d}@{dice.choice(DOMAINS)}" for number in range(size)]
        before = [f"left{number:07d}@{dice.choice(DOMAINS)}" for number in range(max(1, size // 200))]
        rows = [*eligible, *before]
        rows += [_in_other_letters(dice.choice(eligible), dice) for _ in range(max(1, size // 50))]
        rows += [dice.choice(UNUSABLE) for _ in range(max(1, size // 200))]
        dice.shuffle(rows)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(("email", "name"))
            writer.writerows((address, f"Person {number}") for number, address in enumerate(rows))
        return cls(tuple(eligible), tuple(before), len(rows))


def _in_other_letters(address: str, dice: random.Random) -> str:
    return "".join(letter.upper() if dice.random() < 0.3 else letter for letter in address)
