"""What the end-to-end test needs of a machine, and what it says where that is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from cluster import binaries  # noqa: E402  # run as a script, too

PLUGINS = Path("/usr/lib/cni")
PROGRAMS = {
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "runc": "runc",
    "nft": "nftables",
    "ip": "iproute2",
    "unshare": "util-linux",
}
ALLOWED = {
    "namespaces for network, mounts and processes": ["true"],
    "a bridge in a network of one's own": ["ip", "link", "add", "node0", "type", "bridge"],
    "nftables in a network of one's own": ["nft", "add", "table", "inet", "fullsend"],
}
"""What a machine may refuse to root, as in a container: tried, each in namespaces that end with the try."""
GROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
INSIDE = "FULLSEND_E2E_IMAGES"
"""Set by ``make e2e`` within the namespaces that it makes: the folder of the images."""


def missing() -> str:
    """Why it can't run here; "" where it can."""
    if os.geteuid() != 0:
        return "not root: a node needs namespaces, mounts and cgroups"
    packages = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    if not (PLUGINS / "bridge").exists():
        packages.append("containernetworking-plugins")
    if packages:
        return f"no {', '.join(packages)}: install them (Debian's packages are called so)"
    if refused := [what for what, command in ALLOWED.items() if not _may(command)]:
        return f"this machine does not allow {', '.join(refused)}"
    if not _groups_are_ours():
        return "this machine allows no control groups"
    unbuilt = [
        what.name for what in (binaries.CONTROL_PLANE, binaries.HELM, *binaries.NODE) if not binaries.ready(what)
    ]
    return f"not built: {', '.join(unbuilt)} (make e2e builds them)" if unbuilt else ""


def _may(command: list[str]) -> bool:
    apart = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", *command]
    return subprocess.run(apart, capture_output=True, timeout=30).returncode == 0


def _groups_are_ours() -> bool:
    one = next((folder for folder in GROUPS if folder.exists()), GROUPS[-1]) / f"fullsend-{os.getpid()}"
    try:
        one.mkdir()
        one.rmdir()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    print(missing())
