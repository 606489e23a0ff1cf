"""Who an address is: one versioned normaliser, in Python, for planning, suppression, lists and erasure alike.

Two addresses with the same ``identity`` are one person and get one mail; the ``wire`` form is what RCPT TO says. The
invariant: nothing but this module decides whether two addresses are the same, and it never folds more than it must.
The domain is lower-cased and turned into its IDNA A-labels; the local part is brought to NFC and lower-cased by simple
(one to one) mapping; dots and plus tags are left alone, because only the receiving host knows what they mean. Folding
too much would merge two people, and one of them would be missed.

``email-validator`` gives the verdict, without DNS. Nearly every address is a plain ASCII dot-atom at a domain seen
before, so those take a fast path that asks the library once per domain; a property test holds both to one verdict.

A changed rule needs a new ``NORMALISER_VERSION``: stored identities were made by the old one.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import email_validator
from email_validator import EmailNotValidError, validate_email

from fullsend.errors import FullsendError

NORMALISER_VERSION: Final = 1

# ``.local``, ``.localhost`` and ``.test`` are served by private relays every day, and the relay is the judge of that.
# Names that can have no mail host by definition (.invalid, .onion, .arpa) stay refused. The list is the library's
# documented setting.
for _name in ("local", "localhost", "test"):
    if _name in email_validator.SPECIAL_USE_DOMAIN_NAMES:
        email_validator.SPECIAL_USE_DOMAIN_NAMES.remove(_name)

MAX_OCTETS: Final = 254  # RFC 5321 section 4.5.3.1.3, less the angle brackets
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_DOT_ATOM = re.compile(rf"{_ATOM}(?:\.{_ATOM})*").fullmatch
# What spreadsheets and web pages leave around an address: white space, the byte order mark and zero-width characters.
_SURROUNDING = re.compile(r"^[\s\ufeff\u200b-\u200d\u2060]+|[\s\ufeff\u200b-\u200d\u2060]+$")


@dataclass(frozen=True, slots=True)
class Identity:
    """``wire``: the original local part at the ASCII domain. ``identity``: what decides who is the same person.
    ``domain``: the ASCII (A-label), lower-case domain."""

    wire: str
    identity: str
    domain: str


class InvalidAddress(FullsendError):
    """This text cannot be used as a recipient's address. ``reason`` is a stable word, the text says what is wrong."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class _Domain:
    """The library's verdict on one domain; ``octets`` is the length of its longest form."""

    ascii: str
    octets: int
    problem: str


def normalise(address: str) -> Identity:
    """The identity of an address; surrounding white space is not part of it.

    Raises InvalidAddress. About 2 us on the fast path, 50 us or more on the other.
    """
    local, at, domain = address.partition("@")
    if at and _DOT_ATOM(local):
        verdict = _domain(domain)
        # Near the length limit every form of the address counts: the library is asked about the whole of it.
        if not verdict.problem and len(local) + 1 + verdict.octets <= MAX_OCTETS:
            name = verdict.ascii
            return Identity(f"{local}@{name}", f"{local.lower()}@{name}", name)
    trimmed = trim(address)
    return _normalise_slowly(address) if trimmed == address else normalise(trimmed)


def trim(address: str) -> str:
    """The address without the white space and invisible characters around it."""
    return _SURROUNDING.sub("", address)


def is_role_address(identity: str) -> bool:
    """Whether this is a function of a mail system rather than a person, by the local part of its identity."""
    local = identity.rpartition("@")[0]
    return local in ROLE_MAILBOXES or local.endswith(ROLE_SUFFIXES)


# RFC 2142 sections 4 to 6, and the mailboxes that machines answer. Its section 3 (info, sales, marketing, support)
# is not here: these are how small firms subscribe, and leaving them out would be a miss.
ROLE_MAILBOXES: Final = frozenset(
    {"abuse", "noc", "security", "postmaster", "hostmaster", "usenet", "news", "webmaster", "www", "uucp", "ftp"}
    | {"mailer-daemon", "noreply", "no-reply", "root", "nobody", "listserv", "majordomo"}
)
ROLE_SUFFIXES: Final = ("-request", "-owner")  # of mailing lists


def fold_local_part(local: str) -> str:
    """NFC and lower case, character by character: no character becomes two (U+0130 stays itself) and none depends on
    its neighbours (a final sigma is a sigma)."""
    if local.isascii():
        return local.lower()
    composed = unicodedata.normalize("NFC", local)
    folded = "".join(low if len(low := char.lower()) == 1 else char for char in composed)
    return unicodedata.normalize("NFC", folded)


def _normalise_slowly(address: str) -> Identity:
    if not address:
        raise InvalidAddress("EmptyAddress", "the address is empty")
    try:
        valid = validate_email(address, check_deliverability=False)
    except EmailNotValidError as error:
        raise InvalidAddress(_reason(address), str(error)) from None
    domain = valid.ascii_domain
    local = address.rpartition("@")[0]
    return Identity(f"{local}@{domain}", f"{fold_local_part(local)}@{domain}", domain)


def _reason(address: str) -> str:
    """The word for why the library refused; found by looking again, because its texts are not an interface."""
    local, at, domain = address.rpartition("@")
    if not at:
        return "NoAtSign"
    if address.endswith(">") and "<" in address:
        return "DisplayName"
    if local.startswith('"'):
        return "QuotedLocalPart"
    if domain.startswith("["):
        return "AddressLiteral"
    if len(address.encode("utf-8", "surrogatepass")) > MAX_OCTETS:
        return "AddressTooLong"
    if _domain(domain).problem:
        return "InvalidDomain"
    return "InvalidLocalPart"


# Audiences have few domains and many addresses at each: the library's 30 to 50 us are paid once per domain.
# 65,536 entries take about 20 MB at worst.
@lru_cache(maxsize=65_536)
def _domain(domain: str) -> _Domain:
    try:
        valid = validate_email(f"a@{domain}", check_deliverability=False)
    except EmailNotValidError as error:
        return _Domain("", 0, str(error))
    forms = (domain, valid.domain, valid.ascii_domain)
    return _Domain(valid.ascii_domain, max(len(form.encode("utf-8")) for form in forms), "")
