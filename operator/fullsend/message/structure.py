"""The MIME tree of a message as byte segments with holes for what differs per recipient.

    text only                      text/plain
    html                           multipart/alternative(text/plain, text/html)
    html with inline images        multipart/alternative(text/plain, multipart/related(text/html, images))
    with attachments               multipart/mixed(one of the above, attachments)

The images hang below the HTML they belong to (RFC 2387), so that a reader that shows the plain text ignores them.
Boundaries contain ``=_``, which neither quoted-printable nor base64 can produce: no content can close a part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from fullsend.errors import Problem
from fullsend.message.encoding import base64_bytes
from fullsend.message.source import Attachment

MAX_ATTACHMENTS = 20_000_000
"""Bytes of all attachments together; base64 makes 27 MB of it, and large receivers stop at 25 to 35 MB."""

_NAME = r"[A-Za-z0-9!#$&^_.+-]+"
_CONTENT_TYPE = re.compile(rf"(?P<type>{_NAME})/{_NAME}(?:; ?{_NAME}=(?:{_NAME}|\"[ !#-\[\]-~]*\"))*").fullmatch
_CONTENT_ID = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.@-]{1,200}").fullmatch


@dataclass(frozen=True, slots=True)
class BodyPart:
    """A hole in the skeleton: ``name`` is text or html."""

    name: str
    encoding: str  # quoted-printable | base64


_Pieces = list[bytes | BodyPart]


def skeleton(
    parts: Sequence[BodyPart], attachments: Sequence[Attachment], salt: str
) -> tuple[tuple[bytes, ...], tuple[BodyPart, ...]]:
    """The segments before, between and after the parts; the first begins with the content's own header fields."""
    boundary = f"=_{salt}_"
    leaves = {part.name: _leaf(part) for part in parts}
    inline = [_attached(attachment) for attachment in attachments if attachment.inline]
    files = [_attached(attachment) for attachment in attachments if not attachment.inline]
    tree = leaves["text"]
    if "html" in leaves:
        html = leaves["html"]
        if inline:
            html = _multipart('related; type="text/html"', boundary + "r", [html, *inline])
        tree = _multipart("alternative", boundary + "a", [tree, html])
    if files:
        tree = _multipart("mixed", boundary + "m", [tree, *files])

    segments = [b""]
    holes = []
    for piece in tree:
        if isinstance(piece, BodyPart):
            holes.append(piece)
            segments.append(b"")
        else:
            segments[-1] += piece
    return tuple(segments), tuple(holes)


def _leaf(part: BodyPart) -> _Pieces:
    subtype = "html" if part.name == "html" else "plain"
    head = f"Content-Type: text/{subtype}; charset=utf-8\r\nContent-Transfer-Encoding: {part.encoding}\r\n\r\n"
    return [head.encode("ascii"), part]


def _multipart(subtype: str, boundary: str, children: Iterable[_Pieces]) -> _Pieces:
    pieces: _Pieces = [f'Content-Type: multipart/{subtype};\r\n boundary="{boundary}"\r\n'.encode("ascii")]
    for child in children:
        pieces += [f"\r\n--{boundary}\r\n".encode("ascii"), *child]
    pieces.append(f"\r\n--{boundary}--\r\n".encode("ascii"))
    return pieces


def _attached(attachment: Attachment) -> _Pieces:
    disposition = "inline" if attachment.inline else "attachment"
    if attachment.name.isascii():
        escaped = attachment.name.replace("\\", "\\\\").replace('"', '\\"')
        filename = f'filename="{escaped}"'
    else:
        filename = f"filename*=utf-8''{quote(attachment.name, safe='')}"  # RFC 2231
    head = (
        f"Content-Type: {attachment.content_type}\r\n"
        f"Content-Transfer-Encoding: base64\r\n"
        f"Content-Disposition: {disposition};\r\n {filename}\r\n"
    )
    if attachment.inline:
        head += f"Content-ID: <{attachment.content_id or attachment.name}>\r\n"
    return [head.encode("ascii") + b"\r\n" + base64_bytes(attachment.data)]


def attachment_problems(attachments: Sequence[Attachment], html: str) -> Iterable[Problem]:
    """What is wrong with the attachments, and with the HTML's references to them."""
    known: set[str] = set()
    for index, attachment in enumerate(attachments):
        where = f"message.attachments[{index}]"
        name = attachment.name
        if not name or len(name.encode("utf-8", "replace")) > 200 or not name.isprintable() or {"/", "\\"} & set(name):
            yield Problem(
                f"{where}.name", f"{name!r} is not a file name", "one line of at most 200 bytes, without slashes"
            )
        match = _CONTENT_TYPE(attachment.content_type)
        if match is None:
            yield Problem(
                f"{where}.contentType", f"{attachment.content_type!r} is not a media type", "such as image/png"
            )
        elif match["type"].lower() in ("multipart", "message"):
            yield Problem(f"{where}.contentType", f"{attachment.content_type} cannot be attached")
        if attachment.inline:
            content_id = attachment.content_id or name
            if not _CONTENT_ID(content_id):
                yield Problem(
                    f"{where}.contentId", f"{content_id!r} cannot be a content id", "letters, digits, . and -"
                )
            elif content_id in known:
                yield Problem(f"{where}.contentId", f"{content_id!r} is used twice")
            known.add(content_id)
            if not html:
                yield Problem(f"{where}.inline", "there is no html part to show it in")
    for reference in sorted({*re.findall(r"""["'(]cid:([^"')\s{]+)["')]""", html)} - known):
        yield Problem("message.html", f"cid:{reference} refers to no inline attachment", "set its contentId")
    if sum(len(attachment.data) for attachment in attachments) > MAX_ATTACHMENTS:
        yield Problem("message.attachments", f"more than {MAX_ATTACHMENTS:,} bytes together", "link to large files")
