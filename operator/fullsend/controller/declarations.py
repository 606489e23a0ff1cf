"""What is declared, read from the API server: the campaign and everything it names, by name.

The same ``assemble`` and ``resolve`` as for files, so that a manifest means the same in a cluster. Users' Secrets and
ConfigMaps are not read: their keys are mounted where they are needed (invariant 11).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from fullsend.controller.api import Cluster, Object
from fullsend.controller.jobs import Owner
from fullsend.controller.names import GROUP, KINDS, SUSPEND, VERSION
from fullsend.controller.world import Reference
from fullsend.errors import InvalidInput, Problem
from fullsend.reconcile.control import desired_from, desired_unresolved, retry_control
from fullsend.reconcile.observed import Desired
from fullsend.resources.campaign import CampaignSpec
from fullsend.resources.document import Document
from fullsend.resources.fingerprint import content_from_json
from fullsend.resources.load import assemble
from fullsend.resources.manifests import Manifests, Resource
from fullsend.resources.resolve import NamedTransport, ResolvedCampaign, resolve
from fullsend.shell.keeper import Declared


@dataclass(frozen=True, slots=True)
class Declaration:
    """One campaign as declared now. ``resolved`` is None where it can't be used as it is; ``desired`` says why."""

    owner: Owner
    key: str
    generation: int
    deleting: bool
    desired: Desired
    resolved: ResolvedCampaign | None
    references: frozenset[Reference]
    spec: CampaignSpec
    transport: NamedTransport | None
    usable: bool  # the campaign by itself, whatever became of what it names
    emergency_stop: bool
    frozen: Declared | None = None  # see ``thawed``

    def declared(self) -> Declared:
        if self.frozen is not None:
            return self.frozen
        if self.resolved is None:
            return Declared()
        return Declared.of(self.resolved, retry_control(self.spec.retry))

    def thawed(self, content: Mapping[str, Any], fingerprint: str) -> Declaration:
        """The same, with what the seal has frozen in place of what can't be resolved any more: once a plan is sealed,
        nobody needs its Audience or MailTemplate. Itself where that doesn't help."""
        if self.resolved is not None or self.transport is None or not self.usable:
            return self
        try:
            held = content_from_json(content)
        except InvalidInput:
            return self
        resolved = ResolvedCampaign(
            namespace=self.owner.namespace,
            name=self.owner.name,
            ledger_key=self.key,
            spec=self.spec,
            message=held.message,
            audiences=held.audiences,
            excludes=held.excludes,
            exclude_campaigns=held.exclude_campaigns,
            transport=self.transport,
            base_dir=None,
        )
        return replace(
            self,
            resolved=resolved,
            desired=desired_from(resolved, generation=self.generation, emergency_stop=self.emergency_stop),
            frozen=Declared(content, fingerprint, retry_control(self.spec.retry)),
        )


async def read_declaration(cluster: Cluster, campaign: Object) -> Declaration:
    """Raises ApiError."""
    namespace = campaign["metadata"]["namespace"]
    references = sorted(references_of(campaign))
    found = await asyncio.gather(*(cluster.find(KINDS[kind], namespace, name) for kind, name in references))
    return declaration_of(campaign, [item for item in found if item is not None])


def references_of(campaign: Object) -> frozenset[Reference]:
    """What a campaign names, as far as that can be read in whatever somebody wrote."""
    spec = campaign.get("spec") or {}
    names: list[tuple[str, Any]] = [
        ("MailTransport", spec.get("transportRef")),
        ("MailTemplate", spec.get("messageRef")),
        *(("Audience", each) for each in spec.get("audiences") or ()),
        *(("Audience", each.get("audienceRef")) for each in spec.get("exclude") or () if isinstance(each, dict)),
    ]
    return frozenset((kind, str(ref["name"])) for kind, ref in names if isinstance(ref, dict) and ref.get("name"))


def declaration_of(campaign: Object, named: Iterable[Object]) -> Declaration:
    """The declaration from plain objects of the API."""
    metadata = campaign["metadata"]
    namespace, name = metadata["namespace"], metadata["name"]
    manifests, problems = assemble(Document(None, 1, plain(each)) for each in (campaign, *named))
    resource = manifests.campaigns.get((namespace, name))
    broken = resource is None
    if resource is None:
        partial = manifests.broken.get(("Campaign", namespace, name))
        resource = cast("Resource[CampaignSpec] | None", partial)
    spec = resource.spec if resource is not None else CampaignSpec.model_construct(transport_ref=None)
    generation = int(metadata.get("generation", 1))
    stop = (metadata.get("annotations") or {}).get(SUSPEND) == "true"
    resolved: ResolvedCampaign | None = None
    if resource is not None and not broken and not problems:
        try:
            resolved = resolve(manifests, resource)
        except InvalidInput as error:
            problems = list(error.problems)
    if resolved is not None:
        desired = desired_from(resolved, generation=generation, emergency_stop=stop)
    else:
        desired = desired_unresolved(spec, _texts(problems), generation=generation, emergency_stop=stop)
    return Declaration(
        owner=Owner(namespace, name, metadata["uid"]),
        key=spec.ledger_key or name,
        generation=generation,
        deleting="deletionTimestamp" in metadata,
        desired=desired,
        resolved=resolved,
        references=references_of(campaign),
        spec=spec,
        transport=_transport(manifests, namespace, spec),
        usable=resource is not None and not broken,
        emergency_stop=stop,
    )


def _transport(manifests: Manifests, namespace: str, spec: CampaignSpec) -> NamedTransport | None:
    if spec.transport_ref is None:  # of a campaign that can't be read
        return None
    found = manifests.transports.get((namespace, spec.transport_ref.name))
    return NamedTransport(found.name, found.spec) if found is not None else None


def plain(item: Object) -> Object:
    """The items of a list carry no kind of their own; and nothing but the wish is looked at."""
    kept: Object = {name: item[name] for name in ("apiVersion", "kind", "spec") if name in item}
    metadata = {name: item["metadata"].get(name) for name in ("name", "namespace", "annotations")}
    return {"apiVersion": f"{GROUP}/{VERSION}", **kept, "metadata": {k: v for k, v in metadata.items() if v}}


def _texts(problems: Iterable[Problem]) -> tuple[str, ...]:
    return tuple(str(problem) for problem in problems) or ("the Campaign cannot be read",)
