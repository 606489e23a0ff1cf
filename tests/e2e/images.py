"""The images of the end-to-end test, without a registry: a base made on the spot by debootstrap, Fullsend's from the
real Dockerfile on it, what a next version of it could be, and a pause image for the sandboxes. They are written as
archives that containerd imports.

    python tests/e2e/images.py FOLDER      builds what has changed, and writes the archives

Where what they are made of can't be fetched it prints why, and ends well; a Dockerfile that doesn't build is a failure.
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


MIGRATION = ROOT / "tests" / "e2e" / "9999.what-a-next-version-adds.sql"


def version() -> str:
    lines = (ROOT / "helm/fullsend/Chart.yaml").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("appVersion")).strip('"')


def next_version() -> str:
    return f"{version()}-next"


def reference(tag: str = "") -> str:
    """Fullsend's image as the chart names it by default, in full."""
    return f"docker.io/fullsend/fullsend:{tag or version()}"


class CannotFetch(Exception):
    """The text tells a person what is missing."""


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
        try:
            run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", root)
        except subprocess.CalledProcessError as failure:
            raise CannotFetch("debootstrap could not make a base: see above") from failure
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
    here = ["--network=host", *(f"--volume={path}:{path}:ro" for path in told)]
    try:
        run("buildah", "build", "--layers", *here, f"--build-arg=BASE={BASE}", "--tag", reference(), ROOT)
    except subprocess.CalledProcessError:
        if not _fetches(here):
            raise CannotFetch("no Python package can be fetched in a container here") from None
        raise


def _fetches(here: list[str]) -> bool:
    """Whether any package at all arrives."""
    container = run("buildah", "from", BASE)
    fetch = "python3 -m venv /try && /try/bin/pip download --quiet --no-deps --dest /try click"
    try:
        run("buildah", "run", *here, container, "sh", "-c", fetch)
    except subprocess.CalledProcessError:
        return False
    finally:
        run("buildah", "rm", container)
    return True


def make_next() -> None:
    """As a next version would differ: the schema has grown. And of the system's programs only the interpreter is left,
    so that whatever runs in it needs no shell."""
    container = run("buildah", "from", reference())
    root = Path(run("buildah", "mount", container))
    [migrations] = root.glob("opt/fullsend/lib/python3*/site-packages/fullsend/ledger/migrations")
    shutil.copy(MIGRATION, migrations)
    for program in (*root.glob("usr/bin/*"), *root.glob("usr/sbin/*")):
        if not program.name.startswith("python3"):
            program.unlink()
    run("buildah", "umount", container)
    run("buildah", "commit", "--quiet", "--rm", container, reference(next_version()))


def build(folder: Path) -> list[Path]:
    if not has(BASE):
        make_base()
    if not has(PAUSE):
        make_pause()
    make_fullsend()
    make_next()
    archives = []
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in (("pause", PAUSE), ("fullsend", reference()), ("next", reference(next_version()))):
        archive = folder / f"{name}.tar"
        archive.unlink(missing_ok=True)
        run("buildah", "push", "--quiet", image, f"docker-archive:{archive}:{image}")
        archives.append(archive)
    return archives


if __name__ == "__main__":
    try:
        build(Path(sys.argv[1]))
    except CannotFetch as missing:
        print(missing)
