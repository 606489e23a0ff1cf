"""Make this clone's ``.venv`` from nothing but python3: the one step under every make target.

The packages of a requirement lock are installed once per machine, into a cache outside the clone, under a name that
is the hash of the lock and of the Python that runs it. A clone's own ``.venv`` is then three small files: an
interpreter, a path file that names the cached packages and this clone's sources, and the commands. So a second clone
is ready at once, clones never see each other's sources, and two makes at the same time do not disturb each other.

Invariant: a cache entry without its ``ready`` mark, written last and under a lock, is never used.

    python3 tools/setup_venv.py [base|local|dev]     prints the interpreter to use

A ``.venv`` of your own making (one without our mark in it) is left alone and used as it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEVELS = ("base", "local", "dev")  # each lock contains the ones before it
OLDEST = (3, 11)
VENV = ROOT / ".venv"
MARK = VENV / "fullsend-setup"  # the cache entry this clone uses; its presence says that the .venv is ours

LAUNCHER = """#!{python}
import sys

from {module} import {attribute}

sys.exit({attribute}())
"""


class SetupFailed(Exception):
    """The text tells a person what to do."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "fullsend"


def lock_file(level: str) -> Path:
    return ROOT / "requirements" / f"{level}.txt"


def cache_key(level: str) -> str:
    """Changes with the locked packages and with anything that makes compiled packages unusable."""
    python = f"{sys.implementation.cache_tag} {platform.python_version()} {platform.machine()} {sys.base_prefix}"
    return hashlib.sha256(python.encode() + b"\0" + lock_file(level).read_bytes()).hexdigest()[:16]


def entry(level: str) -> Path:
    return cache_folder() / f"venv-{cache_key(level)}"


def is_ready(folder: Path) -> bool:
    return (folder / "ready").is_file()


def packages(folder: Path) -> Path:
    return folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


@contextlib.contextmanager
def locked(name: Path) -> Iterator[None]:
    """One process at a time; the kernel lets go when the holder dies, so no lock is ever stale."""
    name.parent.mkdir(parents=True, exist_ok=True)
    with name.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another set-up to finish ({name})")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def run(*command: str | Path) -> None:
    """Standard output is for the answer alone, so what a command prints goes to standard error."""
    subprocess.run([str(part) for part in command], check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)


def ensure_venv_module() -> None:
    """Debian ships python3 without the part that puts pip into a virtual environment."""
    if importlib.util.find_spec("ensurepip"):
        return
    wanted = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    if not shutil.which("apt-get"):
        raise SetupFailed(
            f"this Python has no ensurepip module: install the package that has it ({wanted} or the like)"
        )
    if os.geteuid() != 0:
        raise SetupFailed(f"this Python has no ensurepip module: run `sudo apt-get install {wanted}`, then try again")
    say(f"installing {wanted}")
    run("apt-get", "update", "-qq")
    run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq", "--no-install-recommends", wanted)


def install(level: str, folder: Path) -> None:
    """Fill a cache entry. Interrupted anywhere, the next run starts it afresh."""
    shutil.rmtree(folder, ignore_errors=True)
    ensure_venv_module()
    say(f"installing requirements/{level}.txt into {folder} (once for this machine)")
    run(sys.executable, "-m", "venv", folder)
    pip: list[str | Path] = [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
    # The lock is complete (--no-deps) and everything in it has a wheel: nothing is compiled, nothing is resolved.
    run(*pip, "install", "--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", lock_file(level))
    (folder / "ready").touch()


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file in one step: another make may be reading it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text)
    fresh.chmod(mode)
    fresh.replace(path)


def commands() -> dict[str, str]:
    """What an installed Fullsend would put on the path: name -> module:attribute."""
    import tomllib  # not at the top: an older Python must get as far as being told that it is too old

    scripts: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    return scripts


def link(folder: Path) -> None:
    """Point this clone's ``.venv`` at a cache entry and at this clone's sources."""
    if not (MARK.is_file() and MARK.read_text().strip() and packages(VENV).is_dir()):
        # New, half made, or made by another Python. The mark comes first: a half-made one must be known as ours.
        shutil.rmtree(VENV, ignore_errors=True)
        write(MARK, "")
        run(sys.executable, "-m", "venv", "--without-pip", VENV)
    write(packages(VENV) / "fullsend.pth", f"{ROOT / 'operator'}\n{packages(folder)}\n")
    for name, target in commands().items():
        module, _, attribute = target.partition(":")
        text = LAUNCHER.format(python=VENV / "bin" / "python", module=module, attribute=attribute)
        write(VENV / "bin" / name, text, 0o755)
    write(MARK, f"{folder}\n")


def current(level: str) -> bool:
    """Whether this clone's ``.venv`` already has what ``level`` needs: its own entry or a larger one."""
    if not MARK.is_file() or not (VENV / "bin" / "python").exists():
        return False
    if not all((VENV / "bin" / name).exists() for name in commands()):
        return False  # a command that is new
    linked = Path(MARK.read_text().strip())
    return any(linked == entry(at) and is_ready(linked) for at in LEVELS[LEVELS.index(level) :])


def set_up(level: str) -> None:
    if VENV.exists() and not MARK.is_file() and (VENV / "pyvenv.cfg").is_file():
        return  # somebody's own
    if current(level):
        return
    with locked(cache_folder() / f"clone-{hashlib.sha256(bytes(ROOT)).hexdigest()[:16]}.lock"):
        if current(level):
            return
        folder = entry(level)
        with locked(folder.with_suffix(".lock")):
            if not is_ready(folder):
                install(level, folder)
        link(folder)


def main(arguments: list[str]) -> int:
    level = arguments[0] if arguments else "local"
    if level not in LEVELS:
        say(f"unknown level {level!r}: one of {', '.join(LEVELS)}")
        return 2
    if sys.version_info < OLDEST:
        say(f"Fullsend needs Python {OLDEST[0]}.{OLDEST[1]} or newer; this is {platform.python_version()}")
        return 1
    try:
        set_up(level)
    except SetupFailed as failure:
        say(f"set-up failed: {failure}")
        return 1
    except subprocess.CalledProcessError as failure:
        say(f"set-up failed: `{' '.join(failure.cmd)}` ended with {failure.returncode}")
        return 1
    except OSError as failure:
        say(f"set-up failed: {failure}")
        return 1
    print(VENV / "bin" / "python")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
