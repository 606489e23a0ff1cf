"""From a claimed row to what goes on the wire: the message's bytes and its envelope."""

from __future__ import annotations

import json
import logging

from fullsend.errors import RenderError
from fullsend.ledger.control import RelayControl
from fullsend.ledger.sessions import Claimed
from fullsend.message.compose import Composer, Recipient
from fullsend.sender.hand import InHand
from fullsend.smtp.outcome import Outgoing

log = logging.getLogger(__name__)


def reverse_path(relay: RelayControl, token: str) -> str:
    """The envelope's sender; with VERP the recipient's token is its extension, the same at every attempt."""
    if not relay.verp:
        return relay.return_path
    local, _, domain = relay.return_path.rpartition("@")
    return f"{local}+{token}@{domain}"


def compose(composer: Composer, claimed: Claimed, relay: RelayControl) -> InHand:
    """Build a claimed row's message. Raises RenderError, whatever went wrong: one recipient's message must not end
    the sender, and with it, at each new try, the campaign."""
    try:
        composed = composer.compose(
            Recipient(address=claimed.address, variables=json.loads(claimed.variables), token=claimed.token)
        )
    except RenderError:
        raise
    except MemoryError as error:
        raise RenderError("the message takes more memory than a sender has") from error
    except Exception as error:
        log.exception("recipient %d: the message cannot be built", claimed.seq)
        raise RenderError(f"the message cannot be built: {type(error).__name__}: {error}") from error
    outgoing = Outgoing(
        sender=reverse_path(relay, claimed.token),
        recipient=claimed.address,
        data=composed.data,
        smtputf8=composed.smtputf8,
    )
    return InHand(claimed, outgoing, composed.message_id)
