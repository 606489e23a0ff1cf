"""The smallest whole campaign, as a user would write it."""

from __future__ import annotations

AUDIENCE = """
apiVersion: fullsend.dev/v1alpha1
kind: Audience
metadata: {name: newsletter}
spec:
  inline:
    recipients:
      - {email: zoe@mail.example, variables: {first_name: Zoë}}
"""
TRANSPORT = """
apiVersion: fullsend.dev/v1alpha1
kind: MailTransport
metadata: {name: relay}
spec:
  smtp: {host: smtp.mail.example}
"""
CAMPAIGN = """
apiVersion: fullsend.dev/v1alpha1
kind: Campaign
metadata: {name: spring}
spec:
  audiences: [{name: newsletter}]
  transportRef: {name: relay}
  message:
    from: {address: news@mail.example, name: Meadow}
    subject: Hello {{ first_name }}
    html: <p>Hello</p><a href="{{ unsubscribe_url }}">Unsubscribe</a>
  unsubscribe:
    url: https://mail.example/u?t={{ token }}
    oneClick: true
    listId: news.mail.example
"""
