"""The message of a plan: compiled once and frozen, then tried on a sample before anybody is mailed.

The invariant: a template is only ever run in a process with limits (``message.limits``), so that the worst of them ends
this plan with a reason and not this process.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from fullsend.audience.intake import Candidate
from fullsend.audience.sources.base import Mounts
from fullsend.errors import SourceError
from fullsend.message.compiled import CompiledMessage, Recipient
from fullsend.message.declared import source_from_content
from fullsend.message.limits import check_limited, compile_limited
from fullsend.message.source import MessageSource
from fullsend.resources.fingerprint import FrozenContent

EXAMPLES: Final = 5


@dataclass(frozen=True, slots=True)
class RenderCheck:
    """``failed`` of ``checked`` sampled recipients have no message; ``examples`` name the rows of some and say why,
    each reason once."""

    checked: int
    failed: int
    examples: tuple[str, ...]


async def compile_content(content: FrozenContent, campaign_name: str, mounts: Mounts) -> CompiledMessage:
    """Raises InvalidInput with every problem of the message, and SourceError for an attachment that isn't there."""
    return await asyncio.to_thread(lambda: compile_limited(_source(content, campaign_name, mounts)))


async def check(compiled: CompiledMessage, sample: Sequence[Candidate]) -> RenderCheck:
    """Builds the message of each. Raises InvalidInput where they need more memory or time than a sender would have."""
    if not sample:
        return RenderCheck(0, 0, ())
    # The bytes around the bodies (attachments) are the same for everybody: thousands of copies would prove nothing.
    bodies = replace(compiled, segments=tuple(b"" for _ in compiled.segments))
    recipients = [Recipient(each.address, each.token, json.loads(each.variables)) for each in sample]
    failures = await asyncio.to_thread(check_limited, bodies, recipients)
    rows: dict[str, list[str]] = {}
    for failure in failures[:EXAMPLES]:
        rows.setdefault(failure.why, []).append(sample[failure.index].where)
    examples = tuple(f"{', '.join(where)}: {why}" for why, where in rows.items())
    return RenderCheck(len(sample), len(failures), examples)


def _source(content: FrozenContent, campaign_name: str, mounts: Mounts) -> MessageSource:
    """The message as the compiler takes it, with the attachments that ConfigMaps hold."""
    attachments: dict[str, bytes] = {}
    for each in content.message.attachments:
        if each.config_map_key_ref is not None:
            path = mounts.config(each.config_map_key_ref.name, each.config_map_key_ref.key)
            try:
                attachments[each.name] = path.read_bytes()
            except OSError as error:
                raise SourceError("AttachmentUnreadable", f"attachment {each.name}: {error.strerror}") from error
    return source_from_content(content, campaign_name, attachments)
