"""How long one message takes: a 6 KB text+HTML newsletter with 14 values, a condition and a loop.

    python bench/message.py

Prints microseconds of CPU per message for the composer, for jinja2 alone, and for the standard library doing the same.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from email.message import EmailMessage
from email.policy import SMTP

from fullsend.message.compile import compile_message
from fullsend.message.compiled import Recipient
from fullsend.message.compose import Composer
from fullsend.message.source import MessageSource

PARAGRAPH = (
    "Spring is here, and with it the things we have been working on all winter: lighter, faster, kinder to the eye. "
    "Have a look around; if you like something, tell a friend (and if you do not, tell us)."
)
ARTICLE = f"""
      <tr><td style="padding: 0 24px 16px; font-family: Arial, sans-serif; font-size: 15px; line-height: 22px;">
        <h2 style="font-size: 18px; color: #223344;">A headline of a usual length</h2>
        <p style="margin: 0 0 12px;">{PARAGRAPH}</p>
        <a href="https://www.example.com/a?c={{{{ customer_id }}}}" style="color: #1166cc;">Read on</a>
      </td></tr>"""
HTML = f"""<!doctype html>
<html><head><meta charset="utf-8"><title>Spring</title></head>
<body style="margin: 0; background: #f4f4f4;">
  <table role="presentation" width="600" align="center" cellpadding="0" cellspacing="0" style="background: #ffffff;">
    <tr><td style="padding: 24px;">Dear {{{{ first_name }}}} {{{{ last_name }}}},</td></tr>
    {{% if city %}}<tr><td>Our shop in {{{{ city }}}} is open.</td></tr>{{% endif %}}{ARTICLE * 6}
    {{% for item in items %}}<tr><td>{{{{ item.name }}}}</td><td>{{{{ item.price }}}}</td></tr>
    {{% endfor %}}
    <tr><td><a href="{{{{ unsubscribe_url }}}}">Unsubscribe</a></td></tr>
  </table>
</body></html>
"""
TEXT = f"""Dear {{{{ first_name }}}} {{{{ last_name }}}},

{PARAGRAPH}

{PARAGRAPH}

{PARAGRAPH}
https://www.example.com/a?c={{{{ customer_id }}}}
{{% for item in items %}}- {{{{ item.name }}}}: {{{{ item.price }}}}
{{% endfor %}}
To unsubscribe: {{{{ unsubscribe_url }}}}
"""
SOURCE = MessageSource(
    campaign="spring-launch",
    class_="Marketing",
    from_address="news@example.com",
    from_name="Example",
    subject="Spring is here, {{ first_name }}",
    text=TEXT,
    html=HTML,
    list_id="news.example.com",
    unsubscribe_url="https://www.example.com/u?t={{ token }}",
)
RECIPIENT = Recipient(
    "anna.mueller@example.org",
    "k3v9x0q1w2e3r4t5",
    {
        "first_name": "Anna",
        "last_name": "Müller",
        "city": "Köln",
        "customer_id": "8712345",
        "items": [{"name": "Tulips", "price": "4.90"}, {"name": "Daffodils", "price": "3.20"}],
    },
)


def measure(function: Callable[[], object], seconds: float = 1.0) -> float:
    """Microseconds of CPU a call: the best of five rounds."""
    function()
    best = float("inf")
    for _ in range(5):
        calls, start = 0, time.process_time()
        while (elapsed := time.process_time() - start) < seconds / 5:
            for _ in range(50):
                function()
            calls += 50
        best = min(best, elapsed / calls)
    return best * 1e6


def main() -> None:
    compiled = compile_message(SOURCE)
    composer = Composer(compiled)

    def with_the_standard_library() -> bytes:
        rendered = composer.render(RECIPIENT)
        message = EmailMessage(policy=SMTP)
        message["From"], message["To"], message["Subject"] = "news@example.com", RECIPIENT.address, rendered.subject
        message.set_content(rendered.text)
        message.add_alternative(rendered.html, subtype="html")
        return message.as_bytes()

    size = len(composer.compose(RECIPIENT).data)
    out = sys.stdout
    out.write(f"message                 {size:7,} bytes\n")
    out.write(f"compose                 {measure(lambda: composer.compose(RECIPIENT)):7.1f} us\n")
    out.write(f"jinja2 alone            {measure(lambda: composer.render(RECIPIENT)):7.1f} us\n")
    out.write(f"jinja2 + EmailMessage   {measure(with_the_standard_library):7.1f} us\n")
    out.write(f"Composer(compiled)      {measure(lambda: Composer(compiled)):7.1f} us, once per process\n")


if __name__ == "__main__":
    main()
