"""Whether a MailTemplate compiles, and what it needs of a recipient.

A template by itself lacks what a campaign adds: the author, perhaps the subject, the way to unsubscribe. Stand-ins take
their place, so that what is wrong with the template itself is found before any campaign uses it; what depends on the
campaign (its class, its unsubscribe block) is judged by the campaign's plan. A template that needs nothing of a
recipient is rendered once, too; for others only a plan has the variables. Both happen in a process with limits
(``message.limits``).
"""

from __future__ import annotations

import asyncio

from fullsend.audience.rendering import compile_content
from fullsend.audience.sources.base import Mounts
from fullsend.errors import InvalidInput, SourceError
from fullsend.message.compiled import CompiledMessage, Recipient
from fullsend.message.limits import check_limited
from fullsend.reconcile.probes import Answer, Outlook
from fullsend.resources.fingerprint import FrozenContent
from fullsend.resources.models import CampaignClass, Mailbox, MailTemplateSpec, MessageSpec, Unsubscribe
from fullsend.resources.template import decode_base64

STAND_IN_FROM = Mailbox(address="from-of-the-campaign@example.invalid")
STAND_IN_SUBJECT = "Subject of the campaign"
STAND_IN_UNSUBSCRIBE = Unsubscribe(
    url="https://example.invalid/{{ token }}", one_click=True, list_id="list-of-the-campaign.example.invalid"
)
NOBODY = Recipient("nobody@example.invalid", "0" * 32, {})
VARIABLES = 200
"""Names that a status has room for."""


async def probe_template(spec: MailTemplateSpec, name: str, mounts: Mounts) -> Answer:
    message = MessageSpec.model_validate(
        {
            "from_": STAND_IN_FROM,
            "subject": STAND_IN_SUBJECT,
            **{field: getattr(spec, field) for field in spec.model_fields_set},
        }
    )
    content = FrozenContent(
        class_=CampaignClass.TRANSACTIONAL,
        message=message,
        audiences=(),
        excludes=(),
        exclude_campaigns=(),
        unsubscribe=STAND_IN_UNSUBSCRIBE,
    )
    try:
        compiled = await compile_content(content, name, mounts)
        failures = [] if compiled.required else await asyncio.to_thread(check_limited, compiled, [NOBODY])
    except SourceError as error:
        return Answer(False, error.reason, f"{error}: create it, or name another in spec.attachments", Outlook.PERSON)
    except InvalidInput as error:
        text = "; ".join(_as_written(str(problem)) for problem in error.problems)
        return Answer(False, "DoesNotCompile", text, Outlook.EDIT)
    if failures:
        return Answer(False, "DoesNotRender", failures[0].why, Outlook.EDIT)
    return Answer(True, "Compiled", _summary(compiled), found=_found(spec, compiled, mounts))


def _as_written(problem: str) -> str:
    """A template's fields are its spec's, not a message's."""
    return f"spec.{problem.removeprefix('message.')}" if problem.startswith("message.") else problem


def _summary(compiled: CompiledMessage) -> str:
    names = ", ".join(compiled.required) or "nothing"
    return f"it compiles; of a recipient it needs {names}"


def _found(spec: MailTemplateSpec, compiled: CompiledMessage, mounts: Mounts) -> dict[str, object]:
    sizes = []
    for each in spec.attachments:
        if each.config_map_key_ref is not None:
            sizes.append(mounts.config(each.config_map_key_ref.name, each.config_map_key_ref.key).stat().st_size)
        else:
            sizes.append(len(decode_base64(each.data or "") or b""))
    generated = "Generated" if compiled.text else "PerRecipient"
    return {
        "variables": list(compiled.required[:VARIABLES]),
        "optionalVariables": list(compiled.optional[:VARIABLES]),
        "text": "Written" if spec.text else generated,
        "textBytes": len(compiled.text.encode()),
        "htmlBytes": len(compiled.html.encode()),
        "attachmentBytes": sum(sizes),
    }
