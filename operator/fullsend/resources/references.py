"""What objects name in one another: that it is there, and fit for its use.

Invariant: a Secret is used only for what its type says, so that a campaign cannot send an arbitrary Secret to a host of
its choosing. Secrets and ConfigMaps that were not given (they may be in the cluster only) are not judged, but a
ConfigMap that a file names must be among the files: a run on this machine has no other place to find it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fullsend.errors import Problem
from fullsend.resources.audience import AudienceSpec
from fullsend.resources.base import ConfigMapKeyRef
from fullsend.resources.campaign import CampaignClass, CampaignSpec, visible_way_out
from fullsend.resources.document import FieldPath
from fullsend.resources.manifests import Key, Manifests, Resource
from fullsend.resources.problems import Finding, check, meant
from fullsend.resources.template import MailTemplateSpec, MessageFields, MessageSpec
from fullsend.resources.transport import MailTransportSpec

SMTP_CREDENTIALS = "fullsend.dev/smtp-credentials"
SMTP_CA = "fullsend.dev/smtp-ca"
POSTGRES_DSN = "fullsend.dev/postgres-dsn"
SECRET_KEYS: Mapping[str, tuple[str, ...]] = {
    SMTP_CREDENTIALS: ("username", "password"),
    SMTP_CA: ("ca.crt",),
    POSTGRES_DSN: ("dsn",),
}


@dataclass(frozen=True, slots=True)
class SecretNeed:
    """A Secret that something reads: its type, whose keys are in ``SECRET_KEYS``, and the field that names it."""

    name: str
    type: str
    path: FieldPath


def audience_secrets(spec: AudienceSpec) -> Iterator[SecretNeed]:
    if spec.postgres is not None:
        path = ("spec", "postgres", "dsnSecretRef", "name")
        yield SecretNeed(spec.postgres.dsn_secret_ref.name, POSTGRES_DSN, path)


def transport_secrets(spec: MailTransportSpec) -> Iterator[SecretNeed]:
    smtp = spec.smtp
    if smtp.credentials_secret_ref is not None:
        path = ("spec", "smtp", "credentialsSecretRef", "name")
        yield SecretNeed(smtp.credentials_secret_ref.name, SMTP_CREDENTIALS, path)
    if smtp.ca_secret_ref is not None:
        yield SecretNeed(smtp.ca_secret_ref.name, SMTP_CA, ("spec", "smtp", "caSecretRef", "name"))


def all_findings(manifests: Manifests) -> list[Problem]:
    """Every problem of every object with the others."""
    problems: list[Problem] = []
    for resources in (manifests.campaigns, manifests.audiences, manifests.templates, manifests.transports):
        for resource in resources.values():
            problems += map(resource.place.problem, findings(manifests, resource))
    for broken in manifests.broken.values():
        if broken is not None and isinstance(broken.spec, CampaignSpec):
            problems += map(broken.place.problem, _campaign(manifests, broken, broken.spec))
    return problems


def findings(manifests: Manifests, resource: Resource[Any]) -> Iterator[Finding]:
    """What is wrong with what this object names."""
    match resource.spec:
        case CampaignSpec() as campaign:
            yield from _campaign(manifests, resource, campaign)
            yield from _from_template(manifests, resource, campaign)
        case AudienceSpec() as audience:
            yield from _audience(manifests, resource, audience)
        case MailTemplateSpec() as template:
            yield from _attachments(manifests, resource, template, ("spec",))
        case MailTransportSpec() as transport:
            for need in transport_secrets(transport):
                yield from _secret(manifests, resource, need)


def effective_message(
    spec: CampaignSpec, template: MailTemplateSpec | None
) -> tuple[MessageSpec | None, list[Finding]]:
    """What the campaign sends: the template, with who it is from, subject and headers as the campaign says."""
    merged = _dump(template)
    own = _dump(spec.message)
    headers = {**own.get("headers", {})}
    taken = {name.lower() for name in headers}
    headers |= {name: text for name, text in merged.get("headers", {}).items() if name.lower() not in taken}
    merged |= own
    if headers:
        merged["headers"] = headers
    checked = check(MessageSpec, merged, ("spec", "message"))
    wrong = list(checked.findings)
    if template is not None and spec.message_ref is not None:
        fix = f"neither the Campaign nor MailTemplate {spec.message_ref.name} gives it"
        wrong = [Finding(item.path, item.what, item.fix or fix) for item in wrong]
    return checked.model, wrong


def _dump(model: MessageFields | None) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True, exclude_defaults=True) if model is not None else {}


def _campaign(manifests: Manifests, resource: Resource[Any], spec: CampaignSpec) -> Iterator[Finding]:
    """The names in a campaign. It may be a partial one, whose unusable required fields are None."""
    audiences, transports, templates = manifests.audiences, manifests.transports, manifests.templates
    for index, audience in enumerate(spec.audiences or ()):
        path: FieldPath = ("spec", "audiences", index, "name")
        yield from _named(manifests, resource, "Audience", audiences, audience.name, path)
    for index, item in enumerate(spec.exclude):
        path = ("spec", "exclude", index)
        if item.audience_ref is not None:
            path = (*path, "audienceRef", "name")
            yield from _named(manifests, resource, "Audience", audiences, item.audience_ref.name, path)
        elif item.ledger_key == (spec.ledger_key or resource.name):
            yield Finding((*path, "ledgerKey"), "is this campaign's own key")
    for kind, known, field, ref in (
        ("MailTransport", transports, "transportRef", spec.transport_ref),
        ("MailTemplate", templates, "messageRef", spec.message_ref),
    ):
        if ref is not None and ref.name is not None:
            yield from _named(manifests, resource, kind, known, ref.name, ("spec", field, "name"))
    if spec.message is not None:
        yield from _attachments(manifests, resource, spec.message, ("spec", "message"))


def _from_template(manifests: Manifests, resource: Resource[Any], spec: CampaignSpec) -> Iterator[Finding]:
    name = spec.message_ref.name if spec.message_ref is not None else ""
    template = manifests.templates.get((resource.namespace, name))
    if template is None:
        return
    message, wrong = effective_message(spec, template.spec)
    yield from wrong
    if message is not None and spec.class_ is CampaignClass.MARKETING:
        for fault in visible_way_out(message):
            yield Finding(("spec", "messageRef"), f"spec.{fault.path[0]} of MailTemplate {name} {fault.what}")


def _audience(manifests: Manifests, resource: Resource[Any], spec: AudienceSpec) -> Iterator[Finding]:
    for need in audience_secrets(spec):
        yield from _secret(manifests, resource, need)
    if spec.csv is None:
        return
    if spec.csv.config_map_key_ref is not None:
        path = ("spec", "csv", "configMapKeyRef")
        yield from _config_map_key(manifests, resource, spec.csv.config_map_key_ref, path)
    if spec.csv.file is not None:
        path = ("spec", "csv", "file")
        if resource.base_dir is None:
            yield Finding(path, "is only for runs without a cluster", "use claim or configMapKeyRef")
            return
        file = resource.base_dir / spec.csv.file
        if not file.exists():
            yield Finding(path, f"{file} does not exist", "the path is relative to the manifest")
        elif not file.is_file() or not os.access(file, os.R_OK):
            yield Finding(path, f"{file} cannot be read as a file")


def _attachments(
    manifests: Manifests, resource: Resource[Any], message: MessageFields, prefix: FieldPath
) -> Iterator[Finding]:
    for index, attachment in enumerate(message.attachments):
        if attachment.config_map_key_ref is not None:
            path = (*prefix, "attachments", index, "configMapKeyRef")
            yield from _config_map_key(manifests, resource, attachment.config_map_key_ref, path)


def _named(
    manifests: Manifests, by: Resource[Any], kind: str, known: Mapping[Key, Any], name: str, path: FieldPath
) -> Iterator[Finding]:
    if (by.namespace, name) in known or (kind, by.namespace, name) in manifests.broken:
        return
    broken = [key[1:] for key in manifests.broken if key[0] == kind]
    here = [other for namespace, other in (*known, *broken) if namespace == by.namespace]
    fix = meant(name, here)
    if not fix and (elsewhere := [namespace for namespace, other in known if other == name]):
        fix = f"there is one in namespace {elsewhere[0]}, but names are looked up in the object's own namespace"
    if not fix:
        fix = f"there: {', '.join(sorted(here)[:10])}" if here else "there is none at all"
    yield Finding(path, f"there is no {kind} {name} in namespace {by.namespace}", fix)


def _config_map_key(
    manifests: Manifests, by: Resource[Any], ref: ConfigMapKeyRef, path: FieldPath
) -> Iterator[Finding]:
    config_map = manifests.config_maps.get((by.namespace, ref.name))
    if config_map is None:
        if by.base_dir is not None:
            yield from _named(manifests, by, "ConfigMap", manifests.config_maps, ref.name, (*path, "name"))
    elif ref.key not in config_map.data:
        known = sorted(config_map.data)
        fix = meant(ref.key, known) or f"there: {', '.join(known[:10])}"
        yield Finding((*path, "key"), f"ConfigMap {ref.name} has no key {ref.key}", fix)


def _secret(manifests: Manifests, by: Resource[Any], need: SecretNeed) -> Iterator[Finding]:
    secret = manifests.secrets.get((by.namespace, need.name))
    if secret is None:
        if any(namespace == by.namespace for namespace, _ in manifests.secrets):
            yield from _named(manifests, by, "Secret", manifests.secrets, need.name, need.path)
        return
    if secret.type != need.type:
        yield Finding(need.path, f"Secret {need.name} is of type {secret.type}", f"type must be {need.type}")
        return
    for key in SECRET_KEYS[need.type]:
        content = secret.data.get(key)
        if content is None:
            there = ", ".join(sorted(secret.data)) or "none"
            yield Finding(need.path, f"Secret {need.name} has no key {key}", f"there: {there}")
        elif not content.strip():
            yield Finding(need.path, f"key {key} of Secret {need.name} is empty")
        elif need.type != SMTP_CA and content != content.rstrip(b"\r\n"):
            fix = "printf '%s' ... | base64 leaves it out"
            yield Finding(need.path, f"key {key} of Secret {need.name} ends with a line break", fix)
