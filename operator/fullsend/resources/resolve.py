"""A campaign with everything it names, ready for the plan, the senders and the fingerprint.

Invariant: a ``ResolvedCampaign`` is whole. Whoever holds one never looks anything up again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fullsend.errors import InvalidInput
from fullsend.resources.audience import AudienceSpec
from fullsend.resources.campaign import CampaignSpec
from fullsend.resources.manifests import Manifests, Resource
from fullsend.resources.references import effective_message, findings
from fullsend.resources.template import MessageSpec
from fullsend.resources.transport import MailTransportSpec


@dataclass(frozen=True, slots=True)
class NamedAudience:
    """An audience and what it was called."""

    name: str
    spec: AudienceSpec


@dataclass(frozen=True, slots=True)
class NamedTransport:
    """A transport and what it was called."""

    name: str
    spec: MailTransportSpec


@dataclass(frozen=True, slots=True)
class ResolvedCampaign:
    """``message`` is the effective one. CSV files are relative to ``base_dir``, the campaign's folder (None in a
    cluster). ``exclude_campaigns`` are ledger keys of the same namespace."""

    namespace: str
    name: str
    ledger_key: str
    spec: CampaignSpec
    message: MessageSpec
    audiences: tuple[NamedAudience, ...]
    excludes: tuple[NamedAudience, ...]
    exclude_campaigns: tuple[str, ...]
    transport: NamedTransport
    base_dir: Path | None


def resolve(manifests: Manifests, campaign: Resource[CampaignSpec]) -> ResolvedCampaign:
    """Look up everything the campaign names. Raises InvalidInput with each thing that is not there or not fit."""
    spec, namespace = campaign.spec, campaign.namespace
    audience_names = [ref.name for ref in spec.audiences]
    exclude_names = [item.audience_ref.name for item in spec.exclude if item.audience_ref is not None]
    template_name = spec.message_ref.name if spec.message_ref is not None else ""
    named: list[Resource[AudienceSpec] | Resource[MailTransportSpec] | None] = [
        manifests.audiences.get((namespace, name)) for name in (*audience_names, *exclude_names)
    ]
    transport = manifests.transports.get((namespace, spec.transport_ref.name))
    template = manifests.templates.get((namespace, template_name))
    problems = [
        resource.place.problem(finding)
        for resource in (campaign, *named, transport, template)
        if resource is not None
        for finding in findings(manifests, resource)
    ]
    message, wrong = effective_message(spec, template.spec if template is not None else None)
    if not problems:
        problems = list(map(campaign.place.problem, wrong))
    if problems or message is None or transport is None:
        raise InvalidInput(problems)

    def audiences(names: list[str]) -> tuple[NamedAudience, ...]:
        found = (manifests.audiences[(namespace, name)] for name in names)
        return tuple(NamedAudience(item.name, _from_folder(item, campaign.base_dir)) for item in found)

    return ResolvedCampaign(
        namespace=namespace,
        name=campaign.name,
        ledger_key=spec.ledger_key or campaign.name,
        spec=spec,
        message=message,
        audiences=audiences(audience_names),
        excludes=audiences(exclude_names),
        exclude_campaigns=tuple(item.ledger_key for item in spec.exclude if item.ledger_key is not None),
        transport=NamedTransport(transport.name, transport.spec),
        base_dir=campaign.base_dir,
    )


def _from_folder(audience: Resource[AudienceSpec], base_dir: Path | None) -> AudienceSpec:
    """The audience with its CSV file named from the campaign's folder, where the two are written in different ones."""
    spec, own = audience.spec, audience.base_dir
    if spec.csv is None or spec.csv.file is None or own is None or base_dir is None or own == base_dir:
        return spec
    if Path(spec.csv.file).is_absolute():
        return spec
    file = Path(os.path.relpath(own / spec.csv.file, base_dir)).as_posix()
    return spec.model_copy(update={"csv": spec.csv.model_copy(update={"file": file})})
