"""The plain-text part of a message for which only HTML was written.

Two ways, chosen at compile time. Where the HTML has only expressions (``{{ name }}``) between fixed text, the
*template* is turned into a text template once: each expression becomes one private-use character, inscriptis lays
the document out, and the expressions go back in. Such a message costs no more than a hand-written one. Where the
HTML has statements (loops and conditions decide which elements exist) or puts out markup (``|safe``), only the
rendered document tells what its text is: then it is laid out anew for each recipient, which takes some 0.6 ms for 6
KB. Write ``text`` for those to avoid it.
"""

from __future__ import annotations

import re

from jinja2 import nodes

from fullsend.message.templates import LimitedEnvironment

_MARKUP_FILTERS = frozenset({"safe", "urlize", "xmlattr", "tojson", "escape", "e", "forceescape"})
_FIRST_PLACEHOLDER, _LAST_PLACEHOLDER = 0xE000, 0xF8FF
_PLACEHOLDER = re.compile(f"[{chr(_FIRST_PLACEHOLDER)}-{chr(_LAST_PLACEHOLDER)}]")
_DELIMITER = re.compile(r"\{\{|\{%|\{#|\}\}|%\}|#\}")
_BARE_LINK = re.compile(r"\[([^\[\]\s]+)\]\(\1\)")


def text_of(html: str) -> str:
    """The text of a rendered HTML document, with the addresses of its links."""
    if not html.strip():
        return ""
    # Not at the top: most messages come with their text, and no sender of those need load an HTML parser.
    from inscriptis import get_text  # type: ignore[import-untyped]
    from inscriptis.model.config import ParserConfig  # type: ignore[import-untyped]

    text = _BARE_LINK.sub(r"\1", get_text(html, ParserConfig(display_links=True)))
    return "\n".join(line.rstrip() for line in text.strip("\n").split("\n")) + "\n"


def text_template(html: str, tree: nodes.Template, environment: LimitedEnvironment) -> str | None:
    """A text template that renders to the text of the rendered HTML; None where no template can."""
    if any(not isinstance(node, nodes.Output) for node in tree.body) or _PLACEHOLDER.search(html):
        return None
    if any(node.name in _MARKUP_FILTERS for node in tree.find_all(nodes.Filter)):
        return None
    expressions: list[str] = []
    document: list[str] = []
    expression: list[str] | None = None
    in_comment = False
    for _, kind, value in environment.lex(html):
        match kind:
            case "raw_begin":
                return None
            case "comment_begin":
                in_comment = True
            case "comment_end":
                in_comment = False
            case "variable_begin":
                expression = []
            case "variable_end" if expression is not None:
                document.append(chr(_FIRST_PLACEHOLDER + len(expressions)))
                expressions.append("".join(expression).strip())
                expression = None
            case _ if expression is not None:
                expression.append(value)
            case _ if not in_comment:
                document.append(value)
    if len(expressions) > _LAST_PLACEHOLDER - _FIRST_PLACEHOLDER:
        return None
    text = text_of("".join(document))
    if _DELIMITER.search(text):
        return None  # braces written as entities would become template syntax
    return _PLACEHOLDER.sub(lambda match: f"{{{{ {expressions[ord(match[0]) - _FIRST_PLACEHOLDER]} }}}}", text)
