"""``fullsend operator``: reconcile the campaigns of a cluster."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from fullsend import logs
from fullsend.cli.options import runs
from fullsend.errors import InvalidInput, Problem


@click.command()
@click.option(
    "--database",
    required=True,
    metavar="@FILE",
    help="The ledger's PostgreSQL: @FILE that holds a URL or libpq string (or such a string, for a try-out: an "
    "argument is no secret).",
)
@click.option("--image", required=True, help="The image of the pods that plan and send: this program's own.")
@click.option(
    "--namespaces", default="", metavar="NAME,...", help="Look after these namespaces only. Default: all of them."
)
@click.option(
    "--lease-namespace", default="", metavar="NAME", help="Where the leader's Lease is kept. Default: the pod's own."
)
@click.option(
    "--pod-overrides",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A YAML file laid over the template of every pod that plans or sends.",
)
@click.option("--port", default=8080, show_default=True, help="Of /healthz, /readyz and /metrics. 0: any free one.")
@click.option(
    "--cluster-id",
    default="",
    metavar="WORD",
    help="What tells this cluster from others on the same database. Default: the uid of namespace kube-system.",
)
@runs
async def operator(
    database: str,
    image: str,
    namespaces: str,
    lease_namespace: str,
    pod_overrides: Path | None,
    port: int,
    cluster_id: str,
) -> None:
    """Reconcile the campaigns of a cluster, until told to stop.

    The cluster is the one this process runs in, or the one of $KUBECONFIG. Any number may run; one leads.
    """
    # Not at the top: kopf takes longer to import than most commands take to run.
    from fullsend.controller.operator import Operator, Settings

    logs.configure()
    logging.getLogger("kopf").setLevel(logging.WARNING)  # it has a line for every event of every object
    logging.getLogger("kopf._cogs.clients").setLevel(
        logging.CRITICAL
    )  # and for each try to reach a server; we have one
    settings = Settings(
        dsn=_dsn(database),
        image=image,
        namespaces=tuple(name for name in (part.strip() for part in namespaces.split(",")) if name),
        namespace=lease_namespace,
        overrides=_overrides(pod_overrides) if pod_overrides is not None else {},
        port=port,
        cluster_id=cluster_id,
    )
    await Operator(settings).run()


def _dsn(database: str) -> str:
    if not database.startswith("@"):
        return database
    try:
        return Path(database[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput([Problem("--database", f"{database[1:]} cannot be read: {error}")]) from error


def _overrides(path: Path) -> Mapping[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        read = YAML(typ="safe", pure=True).load(path)
    except (OSError, YAMLError) as error:
        raise InvalidInput([Problem(str(path), f"is not YAML: {error}")]) from error
    if not isinstance(read, dict) or not read.keys() <= {"metadata", "spec"}:
        fix = "it is a part of a pod template: metadata and spec"
        raise InvalidInput([Problem(str(path), "is not an object with metadata or spec", fix)])
    return read
