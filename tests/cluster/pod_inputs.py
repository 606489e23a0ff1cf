"""What a container is given: its volumes, written to folders, and its environment.

Invariant: as with a kubelet, a container that lacks a Secret, a ConfigMap or a key of one does not start; what it
lacks is said in a kubelet's words, and it starts once it is there.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from cluster.api import Api, Object, Refused

NODE = "local"
Mount = tuple[Path, str, bool]
"""What, where, and whether read-only."""


class Waiting(Exception):
    """A container can't start yet: the reason a kubelet gives, and its words."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason, self.message = reason, message
        super().__init__(message)


class Inputs:
    """Of the pod ``latest``; ``folder`` holds what is its own, ``claims`` what outlives it."""

    def __init__(self, api: Api, latest: Object, folder: Path, claims: Path, path: str) -> None:
        self._api = api
        self._pod = latest
        self._folder = folder
        self._claims = claims
        self._path = path

    @property
    def _namespace(self) -> str:
        return str(self._pod["metadata"]["namespace"])

    async def mounts(self, spec: Object) -> list[Mount]:
        """Each mount, outermost first; the volumes are written by now."""
        volumes = {volume["name"]: volume for volume in self._pod["spec"].get("volumes", ())}
        mounts = []
        for mount in spec.get("volumeMounts", ()):
            source = await self._volume(volumes[mount["name"]]) / mount.get("subPath", "")
            mounts.append((source, mount["mountPath"].rstrip("/"), bool(mount.get("readOnly"))))
        return sorted(mounts, key=lambda mount: mount[1])

    async def _volume(self, volume: Object) -> Path:
        if "hostPath" in volume:
            return Path(volume["hostPath"]["path"])
        if "persistentVolumeClaim" in volume:
            claim = self._claims / self._namespace / volume["persistentVolumeClaim"]["claimName"]
            claim.mkdir(parents=True, exist_ok=True)
            return claim
        folder = self._folder / "volumes" / volume["name"]
        if folder.exists():
            return folder
        files: dict[str, bytes] = {}
        sources = volume["projected"]["sources"] if "projected" in volume else [volume]
        for source in sources:
            for kind in ("secret", "configMap", "downwardAPI"):
                if kind in source:
                    files |= await self._files(kind, source[kind], volume["name"])
            if "serviceAccountToken" in source:
                wanted = source["serviceAccountToken"]
                files[wanted["path"]] = await self._account_token(wanted)
        folder.mkdir(parents=True)
        folder.chmod(0o777)
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder

    async def _files(self, kind: str, source: Object, volume: str) -> dict[str, bytes]:
        if kind == "downwardAPI":
            items = source.get("items", ())
            return {item["path"]: _field_of(self._pod, item["fieldRef"]["fieldPath"]).encode() for item in items}
        plural = "secrets" if kind == "secret" else "configmaps"
        name = source.get("secretName") or source["name"]
        data = await self._data(plural, name)
        if data is None:
            if source.get("optional"):
                return {}
            told = f'MountVolume.SetUp failed for volume "{volume}": {plural[:-1]} "{name}" not found'
            raise Waiting("ContainerCreating", told)
        if "items" not in source:
            return data
        absent = [item["key"] for item in source["items"] if item["key"] not in data]
        if absent and not source.get("optional"):
            told = f'MountVolume.SetUp failed for volume "{volume}": references non-existent {kind} key: {absent[0]}'
            raise Waiting("ContainerCreating", told)
        return {item["path"]: data[item["key"]] for item in source["items"] if item["key"] in data}

    async def _account_token(self, wanted: Object) -> bytes:
        account = f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{self._pod['spec']['serviceAccountName']}"
        spec = {
            "audiences": [wanted["audience"]] if "audience" in wanted else [],
            "expirationSeconds": wanted.get("expirationSeconds", 3600),
        }
        try:
            made = await self._api.post(f"{account}/token", {"spec": spec})
        except (Refused, aiohttp.ClientError, TimeoutError) as error:
            raise Waiting("ContainerCreating", f"no token: {error}") from None
        return str(made["status"]["token"]).encode()

    async def _data(self, plural: str, name: str) -> dict[str, bytes] | None:
        try:
            found = await self._api.get(f"/api/v1/namespaces/{self._namespace}/{plural}/{name}")
        except Refused:
            return None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Waiting("ContainerCreating", f"the API server does not answer: {error}") from None
        binary = found.get("data" if plural == "secrets" else "binaryData") or {}
        plain = {} if plural == "secrets" else found.get("data") or {}
        return {key: base64.b64decode(value) for key, value in binary.items()} | {
            key: value.encode() for key, value in plain.items()
        }

    async def env(self, spec: Object) -> dict[str, str]:
        server = urlsplit(self._api.server)
        env = {
            "PATH": self._path,
            "HOME": "/",
            "HOSTNAME": self._pod["metadata"]["name"],
            "KUBERNETES_SERVICE_HOST": str(server.hostname),
            "KUBERNETES_SERVICE_PORT": str(server.port),
        }
        for source in spec.get("envFrom", ()):
            for kind, plural in (("secretRef", "secrets"), ("configMapRef", "configmaps")):
                if kind in source:
                    data = await self._data(plural, source[kind]["name"])
                    if data is None and not source[kind].get("optional"):
                        what = f'{plural[:-1]} "{source[kind]["name"]}" not found'
                        raise Waiting("CreateContainerConfigError", what)
                    env |= {f"{source.get('prefix', '')}{key}": value.decode() for key, value in (data or {}).items()}
        for item in spec.get("env", ()):
            value = await self._value(item, env)
            if value is not None:
                env[item["name"]] = value
        return env

    async def _value(self, item: Object, env: Mapping[str, str]) -> str | None:
        source = item.get("valueFrom")
        if source is None:
            return expanded(item.get("value", ""), env)
        if "fieldRef" in source:
            return _field_of(self._pod, source["fieldRef"]["fieldPath"])
        for kind, plural in (("secretKeyRef", "secrets"), ("configMapKeyRef", "configmaps")):
            if kind in source:
                wanted = source[kind]
                data = await self._data(plural, wanted["name"])
                if data is not None and wanted["key"] in data:
                    return data[wanted["key"]].decode()
                if wanted.get("optional"):
                    return None
                what = "not found" if data is None else f"has no key {wanted['key']}"
                raise Waiting("CreateContainerConfigError", f'{plural[:-1]} "{wanted["name"]}" {what}')
        raise Waiting("CreateContainerConfigError", f"the value of {item['name']} is of a kind this node does not know")


def _field_of(pod: Object, path: str) -> str:
    special = {"spec.nodeName": NODE, "status.hostIP": "127.0.0.1", "status.podIP": "127.0.0.1"}
    if path in special:
        return special[path]
    keyed = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
    if keyed:
        return str(pod["metadata"].get(keyed[1], {}).get(keyed[2], ""))
    value: Any = pod
    for part in path.split("."):
        value = value.get(part, "")
    if isinstance(value, dict):
        return "".join(f'{key}="{text}"\n' for key, text in sorted(value.items()))
    return str(value)


def expanded(text: str, env: Mapping[str, str]) -> str:
    """``$(NAME)`` as Kubernetes expands it: an unknown one stays as it is, ``$$(NAME)`` is not one."""
    return re.sub(
        r"\$\$|\$\(([-._A-Za-z][-._A-Za-z0-9]*)\)",
        lambda found: "$" if found.group() == "$$" else env.get(found[1], found.group()),
        text,
    )


def moved(text: str, mounts: Sequence[Mount]) -> str:
    """Without a mount namespace: the folder itself in place of the path it should be mounted on."""
    for source, target, _ in reversed(mounts):
        text = re.sub(rf"{re.escape(target)}(?![\w-])", str(source), text)
    return text
