"""An SMTP server of our own for trials, the demo and tests: fast, and able to misbehave in every way a relay can.

It delivers nothing anywhere. ``fullsend mail-sink`` runs it by itself; tests use ``MailSink`` in their own process.
"""

from fullsend.local.mailsink.faults import PRESETS, Banner, Fault, Faults, Rule, Stage, load_faults
from fullsend.local.mailsink.server import MailSink
from fullsend.local.mailsink.stores import Delivery, Folder, Journal, Log, read_journal

__all__ = [
    "PRESETS",
    "Banner",
    "Delivery",
    "Fault",
    "Faults",
    "Folder",
    "Journal",
    "Log",
    "MailSink",
    "Rule",
    "Stage",
    "load_faults",
    "read_journal",
]
