"""How a message is handed over to the relay.

Connect, greet, TLS and AUTH by aiosmtplib; then a pipelined session of our own takes the transport over. What a relay
answers is a value; only what keeps a session from starting raises (``errors.RelayError``). This room knows nothing of
campaigns, ledgers or files: it takes bytes and an envelope and says what became of them.
"""
