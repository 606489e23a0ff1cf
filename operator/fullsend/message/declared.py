"""From what a user declared (``resources``) to what the compiler takes (``source``)."""

from __future__ import annotations

from collections.abc import Mapping

from fullsend.errors import InvalidInput, Problem
from fullsend.message.source import Attachment, MessageSource
from fullsend.resources.fingerprint import FrozenContent
from fullsend.resources.template import decode_base64


def source_from_content(content: FrozenContent, campaign: str, attachments: Mapping[str, bytes]) -> MessageSource:
    """The compiler's input. ``campaign`` is the name that becomes part of each Message-ID; ``attachments`` holds, by
    attachment name, the bytes of those that a ConfigMap holds. Raises InvalidInput for one whose bytes are missing.
    """
    message, unsubscribe = content.message, content.unsubscribe
    files: list[Attachment] = []
    problems: list[Problem] = []
    for index, declared in enumerate(message.attachments):
        data = attachments.get(declared.name) if declared.data is None else decode_base64(declared.data)
        if data is None:
            problems.append(Problem(f"message.attachments[{index}]", f"the content of {declared.name!r} was not found"))
        else:
            content_id = declared.content_id or ""
            files.append(Attachment(declared.name, declared.content_type, data, declared.inline, content_id))
    if problems:
        raise InvalidInput(problems)
    return MessageSource(
        campaign=campaign,
        class_=content.class_.value,
        from_address=message.from_.address,
        from_name=message.from_.name or "",
        reply_to=message.reply_to.address if message.reply_to else "",
        reply_to_name=(message.reply_to.name or "") if message.reply_to else "",
        subject=message.subject,
        text=message.text or "",
        html=message.html or "",
        headers=dict(message.headers),
        attachments=tuple(files),
        list_id=(unsubscribe.list_id or "") if unsubscribe else "",
        unsubscribe_url=unsubscribe.url if unsubscribe else "",
        unsubscribe_mailto=(unsubscribe.mailto or "") if unsubscribe else "",
        one_click=unsubscribe.one_click if unsubscribe else False,
        feedback_id=message.feedback_id or "",
    )
