"""kopf as what it is best at: watches that survive. Its handlers only say that something happened.

Nothing of kopf's is left on an object: no finalizer (it would hang deletions while no operator runs), no annotation, no
index; ``on.event`` handlers write nothing. What kopf tells may be late, doubled or lost, and is good enough: it wakes
somebody who looks for himself, and the audit finds what it lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from typing import Any, Final

from fullsend.controller.access import Access
from fullsend.controller.framework import kopf
from fullsend.controller.names import AUDIENCES, CAMPAIGNS, JOBS, LABEL_UID, TEMPLATES, TRANSPORTS, Kind

Seen = Callable[[Kind, Mapping[str, Any], bool], None]
"""Called with the kind, the object's metadata, and whether it has gone."""

WATCHED: Final = (CAMPAIGNS, JOBS, AUDIENCES, TEMPLATES, TRANSPORTS)
JOB_SELECTOR: Final = LABEL_UID
"""Only Jobs that have this label are sent to us, however many the cluster has."""


class Backoffs(Iterable[float]):
    """Seconds between tries to reach the API server, without an end: where they end, kopf gives that watch up and
    tells nobody. A server that is back is watched again within seconds."""

    def __iter__(self) -> Iterator[float]:
        return chain((1, 2, 3), repeat(5))


def settings() -> kopf.OperatorSettings:
    made = kopf.OperatorSettings()
    made.posting.enabled = False
    made.scanning.disabled = True  # the kinds are known; no right to watch CRDs or namespaces is needed
    made.peering.standalone = True
    made.queueing.exit_timeout = made.queueing.idle_timeout = 0.5  # seconds; nothing is lost by a hasty end
    made.networking.error_backoffs = Backoffs()
    made.watching.server_timeout = 300
    made.watching.client_timeout = 310
    made.watching.chunk_size = 500
    made.watching.label_selectors[JOBS.group, JOBS.version, JOBS.plural] = JOB_SELECTOR
    return made


def registry(seen: Seen, access: Access) -> kopf.OperatorRegistry:
    """kopf goes the same way to the API server as we do, and asks again for it when a token is refused."""
    made = kopf.OperatorRegistry()

    async def log_in(**_kopf: Any) -> kopf.ConnectionInfo:
        return access.log_in()

    kopf.on.login(registry=made)(log_in)
    for kind in WATCHED:
        kopf.on.event(kind.group, kind.version, kind.plural, registry=made, id=f"wake-{kind.plural}")(
            _waker(kind, seen)
        )
    return made


def _waker(kind: Kind, seen: Seen) -> Callable[..., Any]:
    async def wake(event: Mapping[str, Any], **_kopf: Any) -> None:
        seen(kind, event["object"]["metadata"], event["type"] == "DELETED")

    return wake


async def watch(made: kopf.OperatorRegistry, namespaces: Sequence[str]) -> None:
    """Returns when the process was told to stop, or when kopf can't go on: either way the process must end."""
    await kopf.operator(
        registry=made,
        settings=settings(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=list(namespaces),
    )
