"""TLS contexts for relays, and what a failed handshake means for the person who has to mend it."""

from __future__ import annotations

import ssl
from functools import lru_cache
from pathlib import Path

from fullsend.errors import RelayError
from fullsend.smtp.settings import RelaySettings, Tls

# X509_V_ERR_* of OpenSSL, as SSLCertVerificationError.verify_code gives them.
_EXPIRED = frozenset({10})
_NOT_YET_VALID = frozenset({9})
_UNTRUSTED = frozenset({18, 19, 20, 21})
_WRONG_NAME = frozenset({62, 64})


def client_context(settings: RelaySettings) -> ssl.SSLContext | None:
    """None where no TLS is wanted. Raises RelayError when the given authorities can't be read."""
    if settings.tls is Tls.OFF:
        return None
    try:
        return _context(settings.tls is not Tls.OPPORTUNISTIC, settings.ca_file, settings.ca_data)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        where = str(settings.ca_file) if settings.ca_file else "caSecretRef"
        raise RelayError(
            "starttls", f"the CA certificates in {where} can't be used ({error}): PEM is needed"
        ) from error


@lru_cache(maxsize=64)
def _context(verify: bool, ca_file: Path | None, ca_data: str) -> ssl.SSLContext:
    # Cached: loading the system's authorities takes some 10 ms, and a context is shared without harm.
    if not verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    return ssl.create_default_context(cafile=str(ca_file) if ca_file else None, cadata=ca_data or None)


def explain(error: BaseException, settings: RelaySettings, relay: str) -> str:
    """One sentence on a failed handshake, with what to do."""
    name = settings.server_name or settings.host
    if isinstance(error, ssl.SSLCertVerificationError):
        code = error.verify_code
        if code in _WRONG_NAME:
            return (
                f"{relay}: the certificate is not for {name!r} ({error.verify_message}): set smtp.serverName to a name "
                "it bears, or smtp.host to the relay's right name"
            )
        if code in _EXPIRED:
            return f"{relay}: the certificate has expired: the relay's operator must renew it"
        if code in _NOT_YET_VALID:
            return f"{relay}: the certificate is not valid yet: check the clocks of both machines"
        if code in _UNTRUSTED:
            return (
                f"{relay}: the certificate is signed by no authority known here ({error.verify_message}): name the "
                "relay's CA in smtp.caSecretRef"
            )
        return f"{relay}: the certificate can't be trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        if error.reason in ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"):
            wanted = "smtp.tls: StartTLS" if settings.tls is Tls.IMPLICIT else "smtp.tls: Implicit"
            return f"{relay}: what answers does not speak TLS here: try {wanted} or another port"
        return f"{relay}: the TLS handshake failed: {error.reason or error}"
    return f"{relay}: the TLS handshake failed: {error or type(error).__name__}"
