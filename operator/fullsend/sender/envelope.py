"""From a claimed row to what goes on the wire: the message's bytes and its envelope."""

from __future__ import annotations

import json

from fullsend.ledger.control import RelayControl
from fullsend.ledger.sessions import Claimed
from fullsend.message.compiled import Recipient
from fullsend.message.compose import Composer
from fullsend.sender.hand import InHand
from fullsend.smtp.outcome import Outgoing


def reverse_path(relay: RelayControl, token: str) -> str:
    """The envelope's sender; with VERP the recipient's token is its extension, the same at every attempt."""
    if not relay.verp:
        return relay.return_path
    local, _, domain = relay.return_path.rpartition("@")
    return f"{local}+{token}@{domain}"


def compose(composer: Composer, claimed: Claimed, relay: RelayControl) -> InHand:
    """Build a claimed row's message. Raises RenderError where the message is at fault; whatever else is raised is the
    sender's own trouble, unless it follows the recipient (``feed``)."""
    composed = composer.compose(
        Recipient(address=claimed.address, variables=json.loads(claimed.variables), token=claimed.token)
    )
    outgoing = Outgoing(
        sender=reverse_path(relay, claimed.token),
        recipient=claimed.address,
        data=composed.data,
        smtputf8=composed.smtputf8,
    )
    return InHand(claimed, outgoing, composed.message_id)
