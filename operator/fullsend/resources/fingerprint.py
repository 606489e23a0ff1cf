"""What a plan freezes, its fingerprint, and how two of them differ.

Invariant: the fingerprint speaks of meaning, not of writing. Key order, YAML style, and defaults spelled out or not
do not change it (defaults are left out, so a field added later with a default does not either); everything that
decides who gets which message does. Transport, schedule, limits and the like may be edited while a campaign runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from fullsend.errors import InvalidInput, Problem
from fullsend.resources.audience import AudienceSpec
from fullsend.resources.base import Model
from fullsend.resources.campaign import CampaignClass, Unsubscribe
from fullsend.resources.problems import check, path_text
from fullsend.resources.resolve import NamedAudience, ResolvedCampaign
from fullsend.resources.template import MessageSpec


@dataclass(frozen=True, slots=True)
class FrozenContent:
    """The frozen content, typed again."""

    class_: CampaignClass
    message: MessageSpec
    audiences: tuple[NamedAudience, ...]
    excludes: tuple[NamedAudience, ...]
    exclude_campaigns: tuple[str, ...]
    unsubscribe: Unsubscribe | None


def frozen_content(resolved: ResolvedCampaign) -> dict[str, Any]:
    """Everything the plan freezes, as JSON values."""
    spec = resolved.spec
    return {
        "class": spec.class_.value,
        "message": _plain(resolved.message),
        "audiences": [{"name": item.name, "spec": _plain(item.spec)} for item in resolved.audiences],
        "exclude": {
            "audiences": sorted(
                ({"name": item.name, "spec": _plain(item.spec)} for item in resolved.excludes), key=itemgetter("name")
            ),
            "campaigns": sorted(resolved.exclude_campaigns),
        },
        "unsubscribe": _plain(spec.unsubscribe) if spec.unsubscribe is not None else None,
    }


def content_from_json(content: Mapping[str, Any]) -> FrozenContent:
    """The typed content from what the ledger kept. Raises InvalidInput where this version cannot read it."""
    problems: list[Problem] = []

    def typed(model: type[Model], raw: Any, where: str) -> Any:
        checked = check(model, raw)
        for item in checked.findings:
            problems.append(Problem(f"ledger, {where}.{path_text(item.path)}", item.what, item.fix))
        return checked.model

    def audiences(items: list[Mapping[str, Any]]) -> tuple[NamedAudience, ...]:
        return tuple(
            NamedAudience(item["name"], typed(AudienceSpec, item["spec"], f"audience {item['name']}")) for item in items
        )

    frozen = FrozenContent(
        class_=CampaignClass(content["class"]),
        message=typed(MessageSpec, content["message"], "message"),
        audiences=audiences(content["audiences"]),
        excludes=audiences(content["exclude"]["audiences"]),
        exclude_campaigns=tuple(content["exclude"]["campaigns"]),
        unsubscribe=typed(Unsubscribe, content["unsubscribe"], "unsubscribe") if content["unsubscribe"] else None,
    )
    if problems:
        raise InvalidInput(problems)
    return frozen


def fingerprint(content: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of the canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed, one line a field, such as ``spec.message.subject: was 'Spring', now 'Summer'``. Recipients written
    in the object are counted, not shown: these lines end up in status and logs."""
    return list(_compare("spec", old, new))


def _plain(model: Model) -> Any:
    return model.model_dump(mode="json", by_alias=True, exclude_defaults=True)


_ABSENT = object()


def _compare(path: str, old: Any, new: Any) -> Iterator[str]:
    if old == new:
        return
    if path.endswith((".inline.recipients", ".data")):
        yield f"{path}: changed ({_size(old)} before, {_size(new)} now)"
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in (*old, *(key for key in new if key not in old)):
            yield from _compare(f"{path}.{key}", old.get(key, _ABSENT), new.get(key, _ABSENT))
    elif isinstance(old, list) and isinstance(new, list):
        yield from _compare_lists(path, old, new)
    elif old is _ABSENT or old is None:
        yield f"{path}: was not set, now {_short(new, old)}"
    elif new is _ABSENT or new is None:
        yield f"{path}: was {_short(old, new)}, now not set"
    else:
        yield f"{path}: was {_short(old, new)}, now {_short(new, old)}"


def _compare_lists(path: str, old: list[Any], new: list[Any]) -> Iterator[str]:
    if not all(isinstance(item, dict) and "name" in item for item in (*old, *new)):
        yield f"{path}: was {_short(old, new)}, now {_short(new, old)}"
        return
    before, after = ({item["name"]: item for item in items} for items in (old, new))
    yield from (f"{path}: {name} is gone" for name in before if name not in after)
    yield from (f"{path}: {name} is new" for name in after if name not in before)
    for name in before:
        if name in after:
            yield from _compare(f"{path}[{name}]", before[name], after[name])
    if sorted(before) == sorted(after) and list(before) != list(after):
        yield f"{path}: the order was {', '.join(before)}, now {', '.join(after)}"


def _size(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} recipients"
    return f"{len(value)} characters" if isinstance(value, str) else "not set"


def _short(value: Any, other: Any) -> str:
    """At most some 60 characters of a value, around the first place where it is not the same as the other."""
    if not isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) <= 60 else text[:57] + "..."
    start = 0
    if len(value) > 60 and isinstance(other, str):
        same = next((i for i, (a, b) in enumerate(zip(value, other, strict=False)) if a != b), 0)
        start = max(0, min(same, len(value) - 1) - 20)
    piece = value[start : start + 60]
    return f"{'...' if start else ''}{piece!r}{'...' if start + 60 < len(value) else ''}"
