"""``python -m fullsend.local.mailsink``."""

from fullsend.local.mailsink.command import mail_sink

mail_sink(prog_name="mail-sink")
