"""The images of the end-to-end test, without a registry: a base made on the spot by debootstrap, Fullsend's from the
real Dockerfile on it, and a pause image for the sandboxes. They are written as archives that containerd imports.

    python tests/e2e/images.py FOLDER      builds what has changed, and writes the archives
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASE = "localhost/fullsend-base:bookworm"
PAUSE = "localhost/fullsend-pause:1"
PACKAGES = "python3,python3-venv,ca-certificates"


def reference() -> str:
    """Fullsend's image as the chart names it by default, in full."""
    version = next(
        line.split()[1] for line in (ROOT / "helm/fullsend/Chart.yaml").read_text().splitlines() if "appVersion" in line
    )
    return f"docker.io/fullsend/fullsend:{version}"


def run(*command: str | Path) -> str:
    # buildah's own isolation wants namespaces that a container may not make.
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
    done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, text=True, env=environment, check=True)
    return done.stdout.strip()


def has(image: str) -> bool:
    return subprocess.run(["buildah", "inspect", "--type", "image", image], capture_output=True).returncode == 0


def make_base() -> None:
    with tempfile.TemporaryDirectory(prefix="fullsend-base-") as folder:
        root = Path(folder) / "root"
        run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", root)
        shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)
        container = run("buildah", "from", "scratch")
        run("buildah", "add", "--quiet", container, root, "/")
        run("buildah", "commit", "--quiet", "--rm", container, BASE)


def make_pause() -> None:
    """A sandbox's process only has to be there."""
    container = run("buildah", "from", BASE)
    run("buildah", "config", "--entrypoint", '["/usr/bin/sleep","infinity"]', "--user", "65532", container)
    run("buildah", "commit", "--quiet", "--rm", container, PAUSE)


def make_fullsend() -> None:
    # Where pip gets its packages on this machine is this machine's affair.
    told = [path for path in ("/etc/pip.conf", "/etc/ssl/certs") if Path(path).exists()]
    volumes = [f"--volume={path}:{path}:ro" for path in told]
    base = f"--build-arg=BASE={BASE}"
    run("buildah", "build", "--layers", "--network=host", *volumes, base, "--tag", reference(), ROOT)


def build(folder: Path) -> list[Path]:
    if not has(BASE):
        make_base()
    if not has(PAUSE):
        make_pause()
    make_fullsend()
    archives = []
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in (("pause", PAUSE), ("fullsend", reference())):
        archive = folder / f"{name}.tar"
        archive.unlink(missing_ok=True)
        run("buildah", "push", "--quiet", image, f"docker-archive:{archive}:{image}")
        archives.append(archive)
    return archives


if __name__ == "__main__":
    build(Path(sys.argv[1]))
