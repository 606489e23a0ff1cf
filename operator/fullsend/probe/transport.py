"""Whether a relay takes us: connect, greeting, EHLO, TLS, EHLO, AUTH, QUIT. No envelope, no mail.

The same ``connect`` as a sender's, so that what it says here is what a campaign would meet.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from fullsend.audience.sources.base import Mounts
from fullsend.errors import RelayError
from fullsend.reconcile.control import relay_control
from fullsend.reconcile.probes import Answer, Outlook
from fullsend.resources.models import MailTransportSpec
from fullsend.resources.references import SECRET_KEYS, transport_secrets
from fullsend.sender.relay import settings_for
from fullsend.smtp.connect import connect
from fullsend.smtp.outcome import RelayRefused
from fullsend.smtp.session import Session
from fullsend.smtp.settings import Pipelining, RelaySettings

PATIENCE: Final = 60.0
"""Seconds for one reply. A sender waits as long as the transport says; a probe that hangs tells nobody anything."""
_REASONS: Final = {
    "connect": "CannotConnect",
    "banner": "GreetingRefused",
    "ehlo": "GreetingRefused",
    "starttls": "TlsFailed",
    "auth": "LoginRefused",
}
_LONGEST: Final = 200  # characters of one capability; a relay says what it likes


async def probe_transport(spec: MailTransportSpec, name: str, mounts: Mounts) -> Answer:
    for need in transport_secrets(spec):
        lacking = [key for key in SECRET_KEYS[need.type] if not (mounts.secrets_dir / need.name / key).is_file()]
        if lacking:
            text = f"Secret {need.name} is not there, or has no key {' and no key '.join(lacking)}: create it, of type"
            return Answer(False, "SecretMissing", f"{text} {need.type}", Outlook.PERSON)
    try:
        settings = settings_for(relay_control(name, spec, return_path=""), mounts.secrets_dir)
    except RelayError as error:
        return Answer(False, "SecretUnreadable", str(error), Outlook.PERSON)
    timeouts = settings.timeouts
    settings = replace(
        settings,
        timeouts=replace(timeouts, banner=min(timeouts.banner, PATIENCE), reply=min(timeouts.reply, PATIENCE)),
    )
    try:
        session = await connect(settings)
    except RelayError as error:
        return await _failed(error, settings)
    found = _found(session, authenticated=bool(settings.username))
    await session.quit()
    how = f"over {session.tls_version}" if session.tls_version else "without encryption"
    who = ", and took the login" if settings.username else ""
    return Answer(True, "Reachable", f"{session.relay} answers {how}{who}", found=found)


async def _failed(error: RelayError, settings: RelaySettings) -> Answer:
    """Why, and, where only the login failed, what the relay offers all the same."""
    code = error.reply.code if isinstance(error, RelayRefused) else 0
    reason, outlook = _REASONS[error.stage], Outlook.PERSON
    if error.stage == "connect" or code // 100 == 4:
        outlook = Outlook.ITSELF
    if error.stage == "auth" and code // 100 == 4:
        reason = "LoginRefusedForNow"
    found: dict[str, object] = {}
    if error.stage == "auth":
        try:
            session = await connect(replace(settings, username="", password=""))
        except RelayError:
            pass  # it was told already what matters
        else:
            found = _found(session, authenticated=False)
            await session.quit()
    return Answer(False, reason, str(error), outlook, found)


def _found(session: Session, *, authenticated: bool) -> dict[str, object]:
    offered = [f"{name} {rest}".strip()[:_LONGEST] for name, rest in session.capabilities.items()]
    return {
        "relay": session.relay,
        "tlsVersion": session.tls_version,
        "capabilities": offered[:64],
        "authMechanisms": session.capabilities.get("AUTH", "")[:_LONGEST].upper().split(),
        "authenticated": authenticated,
        "pipelining": "Disabled" if session.pipelining is Pipelining.OFF else session.pipelining.value,
        "sizeLimit": session.size_limit or 0,
    }
