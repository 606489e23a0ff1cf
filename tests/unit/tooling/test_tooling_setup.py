"""Claims about the set-up script: clones share packages, never sources; a half-made environment is never used."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


def clone(folder: Path) -> ModuleType:
    """A copy of what the script looks at, and the script loaded from there."""
    for name in ("tools/setup_venv.py", "pyproject.toml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for level in ("base", "local", "dev"):
        (folder / "requirements").mkdir(exist_ok=True)
        (folder / "requirements" / f"{level}.txt").write_text(f"# {level}\n")
    (folder / "operator" / "fullsend").mkdir(parents=True)
    (folder / "operator" / "fullsend" / "__init__.py").write_text("")
    (folder / "operator" / "fullsend" / "cli.py").write_text(f"def main() -> None:\n    print({folder.name!r})\n")
    spec = importlib.util.spec_from_file_location(f"setup_venv_{folder.name}", folder / "tools" / "setup_venv.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fullsend"


@pytest.fixture
def installs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The levels that were really installed, in order."""
    return []


def cheap_install(setup: ModuleType, monkeypatch: pytest.MonkeyPatch, installs: list[str]) -> None:
    """Replace the installation by one shared module that says nothing."""

    def install(level: str, folder: Path) -> None:
        installs.append(level)
        setup.packages(folder).mkdir(parents=True)
        (setup.packages(folder) / "shared_package.py").write_text("")
        (folder / "ready").touch()

    monkeypatch.setattr(setup, "install", install)


def fullsend(folder: Path) -> str:
    environment = {"PATH": os.environ["PATH"]}
    command = [folder / ".venv" / "bin" / "fullsend"]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()


def test_two_clones_share_packages_and_run_their_own_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installs: list[str]
) -> None:
    for name in ("one", "two"):
        setup = clone(tmp_path / name)
        cheap_install(setup, monkeypatch, installs)
        assert setup.main(["local"]) == 0
    assert installs == ["local"]
    assert (fullsend(tmp_path / "one"), fullsend(tmp_path / "two")) == ("one", "two")
    python = tmp_path / "one" / ".venv" / "bin" / "python"
    subprocess.run([python, "-c", "import shared_package"], check=True)


def test_a_larger_environment_serves_a_smaller_wish_and_a_new_lock_makes_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installs: list[str]
) -> None:
    setup = clone(tmp_path / "one")
    cheap_install(setup, monkeypatch, installs)
    assert [setup.main([level]) for level in ("local", "dev", "local", "base")] == [0, 0, 0, 0]
    assert installs == ["local", "dev"]
    (tmp_path / "one" / "requirements" / "dev.txt").write_text("# newer\n")
    assert setup.main(["dev"]) == 0
    assert installs == ["local", "dev", "dev"]


def test_an_interrupted_installation_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installs: list[str]
) -> None:
    setup = clone(tmp_path / "one")
    half = setup.packages(setup.entry("local"))
    half.mkdir(parents=True)
    (half / "torn.py").write_text("")
    monkeypatch.setattr(setup, "run", lambda *command: setup.entry("local").mkdir(exist_ok=True))
    monkeypatch.setattr(setup, "link", lambda folder: None)
    assert setup.main(["local"]) == 0
    assert setup.is_ready(setup.entry("local"))
    assert not half.exists()


def test_an_interrupted_link_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installs: list[str]
) -> None:
    setup = clone(tmp_path / "one")
    cheap_install(setup, monkeypatch, installs)
    real_run = setup.run

    def dies(*command: str | Path) -> None:
        real_run(*command)
        raise KeyboardInterrupt

    monkeypatch.setattr(setup, "run", dies)
    with pytest.raises(KeyboardInterrupt):
        setup.main(["local"])
    monkeypatch.setattr(setup, "run", real_run)
    assert setup.main(["local"]) == 0
    assert fullsend(tmp_path / "one") == "one"


def test_an_environment_of_somebody_elses_making_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installs: list[str]
) -> None:
    setup = clone(tmp_path / "one")
    cheap_install(setup, monkeypatch, installs)
    theirs = tmp_path / "one" / ".venv"
    theirs.mkdir()
    (theirs / "pyvenv.cfg").write_text("home = /elsewhere\n")
    assert setup.main(["dev"]) == 0
    assert installs == []
    assert [path.name for path in theirs.iterdir()] == ["pyvenv.cfg"]


def test_without_ensurepip_an_ordinary_user_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = clone(tmp_path / "one")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert setup.main(["local"]) == 1
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"sudo apt-get install python{version}-venv" in capsys.readouterr().err


def test_an_older_python_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = clone(tmp_path / "one")
    monkeypatch.setattr(setup, "OLDEST", (9, 0))
    assert setup.main(["local"]) == 1
    assert "needs Python 9.0 or newer" in capsys.readouterr().err
