"""Secrets and ConfigMaps as folders, the way a kubelet mounts them: ``<folder>/<name>/<key>``, one file a key.

Jobs find them there whether they run in a pod or as a process on this machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from fullsend.local.processes import write_private
from fullsend.resources.manifests import Manifests


class LocalMounts:
    """The mounts of one namespace under ``state``; laid anew at each run, so that a removed key is gone."""

    def __init__(self, state: Path, namespace: str) -> None:
        self.secrets_dir = state / "secrets" / namespace
        self.config_dir = state / "config" / namespace

    def lay(self, manifests: Manifests, namespace: str) -> None:
        for folder in (self.secrets_dir, self.config_dir):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, mode=0o700)
        for (owner, name), secret in manifests.secrets.items():
            if owner == namespace:
                _lay_keys(self.secrets_dir / name, secret.data)
        for (owner, name), config_map in manifests.config_maps.items():
            if owner == namespace:
                _lay_keys(self.config_dir / name, config_map.data)


def _lay_keys(folder: Path, values: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for key, value in values.items():
        write_private(folder / key, value)
