"""What the end-to-end test needs of a machine, and what it says where that is missing."""

from __future__ import annotations

import os
import shutil
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
    unbuilt = [
        what.name for what in (binaries.CONTROL_PLANE, binaries.HELM, *binaries.NODE) if not binaries.ready(what)
    ]
    return f"not built: {', '.join(unbuilt)} (make e2e builds them)" if unbuilt else ""


if __name__ == "__main__":
    print(missing())
