"""The message of a plan: compiled once and frozen, then tried on a sample before anybody is mailed.

The invariant: a template is only ever run in a process with limits (``message.limits``), so that the worst of them ends
this plan with a reason and not this process.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fullsend.audience.intake import Candidate
from fullsend.audience.sources.base import Mounts
from fullsend.errors import SourceError
from fullsend.message.compiled import CompiledMessage
from fullsend.message.compose import Recipient
from fullsend.message.limits import check_limited, compile_limited
from fullsend.message.source import Attachment, MessageSource
from fullsend.resources.fingerprint import FrozenContent
from fullsend.resources.models import Attachment as AttachmentSpec
from fullsend.resources.template import decode_base64

EXAMPLES: Final = 5


@dataclass(frozen=True, slots=True)
class RenderCheck:
    """``failed`` of ``checked`` sampled recipients have no message; ``examples`` name some of them and say why."""

    checked: int
    failed: int
    examples: tuple[str, ...]


async def compile_content(content: FrozenContent, campaign_name: str, mounts: Mounts) -> CompiledMessage:
    """Raises InvalidInput with every problem of the message, and SourceError for an attachment that isn't there."""
    source = await asyncio.to_thread(message_source, content, campaign_name, mounts)
    return await asyncio.to_thread(compile_limited, source)


async def check(compiled: CompiledMessage, sample: Sequence[Candidate]) -> RenderCheck:
    """Builds the message of each. Raises InvalidInput where they need more memory or time than a sender would have."""
    if not sample:
        return RenderCheck(0, 0, ())
    recipients = [Recipient(each.address, each.token, json.loads(each.variables)) for each in sample]
    failures = await asyncio.to_thread(check_limited, compiled, recipients)
    examples = tuple(f"{sample[failure.index].address}: {failure.why}" for failure in failures[:EXAMPLES])
    return RenderCheck(len(sample), len(failures), examples)


def message_source(content: FrozenContent, campaign_name: str, mounts: Mounts) -> MessageSource:
    """The message as the compiler takes it, with its attachments read."""
    message, way_out = content.message, content.unsubscribe
    return MessageSource(
        campaign=campaign_name,
        class_=content.class_.value,
        from_address=message.from_.address,
        from_name=message.from_.name or "",
        reply_to=message.reply_to.address if message.reply_to else "",
        subject=message.subject,
        text=message.text or "",
        html=message.html or "",
        headers=message.headers,
        attachments=tuple(_attachment(each, mounts) for each in message.attachments),
        feedback_id=message.feedback_id or "",
        list_id=(way_out.list_id or "") if way_out else "",
        unsubscribe_url=way_out.url if way_out else "",
        unsubscribe_mailto=(way_out.mailto or "") if way_out else "",
        one_click=way_out.one_click if way_out else False,
    )


def _attachment(spec: AttachmentSpec, mounts: Mounts) -> Attachment:
    if spec.config_map_key_ref is not None:
        path = mounts.config(spec.config_map_key_ref.name, spec.config_map_key_ref.key)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise SourceError("AttachmentUnreadable", f"attachment {spec.name}: {error.strerror}") from error
    else:
        data = decode_base64(spec.data or "") or b""
    return Attachment(spec.name, spec.content_type, data, spec.inline, spec.content_id or "")
