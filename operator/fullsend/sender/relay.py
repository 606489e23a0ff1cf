"""From what the ledger says of a relay to what the SMTP session needs; secrets come from mounted files."""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from pathlib import Path

from fullsend.errors import InvalidInput, RelayError
from fullsend.ledger.control import RelayControl
from fullsend.sender.job import read_secret_file
from fullsend.smtp.classify import reply_rules
from fullsend.smtp.rules import Rule
from fullsend.smtp.settings import Pipelining, RelaySettings, Timeouts, Tls

_RFC = Timeouts()

log = logging.getLogger(__name__)


def settings_for(relay: RelayControl, secrets_dir: Path) -> RelaySettings:
    """Reads the secrets at each call: a rotated password is used from the next connection on.

    Raises RelayError when a secret is not (yet) there, or a setting is one that only a newer sender knows: that is the
    transport's trouble, and heals once it is mended.
    """
    username = password = ""
    try:
        if relay.credentials_secret:
            folder = secrets_dir / relay.credentials_secret
            username, password = read_secret_file(folder / "username"), read_secret_file(folder / "password")
        ca_data = read_secret_file(secrets_dir / relay.ca_secret / "ca.crt") if relay.ca_secret else ""
    except InvalidInput as error:
        raise RelayError("auth", f"transport {relay.name}: {error}") from error
    try:
        tls, pipelining = Tls(relay.tls), Pipelining(relay.pipelining)
    except ValueError as error:
        raise RelayError("connect", f"transport {relay.name}: {error}") from error
    return RelaySettings(
        host=relay.host,
        port=relay.port,
        tls=tls,
        pipelining=pipelining,
        username=username,
        password=password,
        ca_data=ca_data,
        server_name=relay.server_name,
        helo_name=relay.helo_name,
        auth_mechanism=relay.auth_mechanism,
        timeouts=Timeouts(
            connect=relay.connect_timeout,
            # Who sets how long a reply may take means the greeting and the answer to DATA too.
            banner=relay.reply_timeout,
            reply=relay.reply_timeout,
            data=min(_RFC.data, relay.reply_timeout),
            dot=relay.dot_timeout,
        ),
    )


@lru_cache(maxsize=4)
def _rules(rules_json: str) -> tuple[Rule, ...]:
    try:
        return reply_rules(json.loads(rules_json))
    except InvalidInput as error:
        log.error("replyRules that can't be used are left out: %s", error)
        return ()


def rules_of(relay: RelayControl) -> tuple[Rule, ...]:
    """The transport's own reply rules, compiled once for each edit of them."""
    return _rules(json.dumps([dict(rule) for rule in relay.reply_rules])) if relay.reply_rules else ()
