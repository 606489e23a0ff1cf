"""Claims about the repository itself: it installs from wherever its user's Python is told to, and from nowhere else."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LOCKS = ("base", "local", "dev")

# Spelt in two halves, so that this file keeps the rule that it checks.
REGISTRY_HOSTS = [
    "py" + "pi.org",
    "python" + "hosted.org",
    "crates" + ".io",
    "registry." + "npmjs",
    "proxy." + "golang.org",
    "sum." + "golang.org",
    "repo1." + "maven",
    "deb." + "debian.org",
    "security." + "debian.org",
]


def tracked_files() -> list[Path]:
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("not a git clone: what is tracked is unknown")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    return [path for name in listed.split(b"\0") if name and (path := ROOT / name.decode()).is_file()]


def pinned(lock: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)(?:\[[a-z,]+\])?==(\S+)", text, re.MULTILINE))


def test_no_tracked_file_names_a_package_registry() -> None:
    hosts = re.compile("|".join(re.escape(host) for host in REGISTRY_HOSTS).encode(), re.IGNORECASE)
    named = [str(path.relative_to(ROOT)) for path in tracked_files() if hosts.search(path.read_bytes())]
    assert named == []


@pytest.mark.parametrize("lock", [*LOCKS, "build"])
def test_a_lock_has_hashes_and_says_nothing_of_where_to_install_from(lock: str) -> None:
    for line in (ROOT / "requirements" / f"{lock}.txt").read_text().splitlines():
        assert "://" not in line
        assert re.match(r"#|    --hash=sha256:[0-9a-f]{64}|[a-z0-9-]+(\[[a-z,]+\])?==", line), line


def test_each_lock_contains_the_smaller_one_at_the_same_versions() -> None:
    base, local, dev = (pinned(lock) for lock in LOCKS)
    assert base.items() <= local.items() <= dev.items()


def declared() -> dict[str, set[str]]:
    """What pyproject.toml asks for itself, by lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {
        "base": project["project"]["dependencies"],
        "local": project["project"]["optional-dependencies"]["local"],
        "dev": project["dependency-groups"]["dev"],
    }
    return {lock: {normal(re.split(r"[\[><=~! ;]", text)[0]) for text in texts} for lock, texts in wanted.items()}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("lock", LOCKS)
def test_what_the_project_declares_is_locked(lock: str) -> None:
    assert declared()[lock] <= pinned(lock).keys()


def test_what_is_imported_is_declared_and_not_there_by_chance() -> None:
    """A package that only another one brings along goes away with it; the program itself may not need a dev package."""
    sources = [path for path in tracked_files() if path.suffix == ".py"]
    folders = {path.relative_to(ROOT / "tests").parts[0] for path in sources if path.is_relative_to(ROOT / "tests")}
    own = {"fullsend", *folders, *(path.stem for path in sources)}
    distributions = packages_distributions()
    by_lock = declared()
    program = by_lock["base"] | by_lock["local"] | {"pydantic-core"}  # the other half of pydantic, pinned by it
    undeclared = set()
    for path in sources:
        allowed = program if path.is_relative_to(ROOT / "operator") else program | by_lock["dev"]
        for node in ast.walk(ast.parse(path.read_bytes())):
            match node:
                case ast.Import(names=names):
                    modules = [name.name for name in names]
                case ast.ImportFrom(module=str(module), level=0):
                    modules = [module]
                case _:
                    continue
            for module in {name.partition(".")[0] for name in modules} - own - sys.stdlib_module_names:
                if not allowed & {normal(name) for name in distributions.get(module, [])}:
                    undeclared.add(f"{path.relative_to(ROOT)}: {module}")
    assert not undeclared, "\n".join(sorted(undeclared))
