"""The commands that README.md and docs/kubectl.md tell a person to type, typed, one after the other, as written there.

What a reader has to have is here too: an operator, a relay named in manifests/samples/transport.yaml, the plugin on the
PATH, and a kubeconfig whose context has a namespace.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.kubectl import Kubectl
from support.cluster_world import ClusterWorld
from support.plugin import Plugin
from support.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
FIRST = "kubectl apply -f manifests/samples/"
READERS = "email,first_name,status\nana@example.com,Ana,confirmed\nben@example.com,Ben,\n"


def blocks(page: str) -> list[list[str]]:
    """The indented blocks of a page, each a list of commands."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"(?m)^(?:    \S.*\n)+", text)
    return [[line.strip() for line in block.splitlines()] for block in found]


class Reader:
    """Somebody with a clone, who types what a page says."""

    def __init__(self, world: ClusterWorld, plugin: Plugin, folder: Path) -> None:
        self._plugin = plugin
        self._folder = folder
        shutil.copytree(ROOT / "manifests", folder / "manifests")
        port = world.place.sink().port
        for file in (folder / "manifests" / "samples").rglob("*.yaml"):
            text = file.read_text(encoding="utf-8")
            named = re.sub(r"host: fullsend-mail-sink.*\n    port: 25\n", f"host: 127.0.0.1\n    port: {port}\n", text)
            file.write_text(named, encoding="utf-8")
        (folder / "readers.csv").write_text(READERS)
        (folder / "readers.csv.gz").write_bytes(gzip.compress(READERS.encode()))

    def types(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command}"],
            cwd=self._folder,
            env=self._plugin.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=360,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def world(kubectl: Kubectl, namespace: str, tmp_path: Path, postgres_dsn: str) -> Iterator[ClusterWorld]:
    place = Workspace(tmp_path, postgres_dsn)
    made = ClusterWorld(kubectl, namespace, place)
    yield made
    made.close()
    place.close()


@pytest.fixture
def reader(world: ClusterWorld, tmp_path: Path) -> Reader:
    config = world.place.folder / "kubeconfig"
    shutil.copy(world.kubectl.kubeconfig, config)
    reader = Reader(world, Plugin(world.kubectl, config, world.namespace), tmp_path / "clone")
    reader.types(f"kubectl config set-context --current --namespace={world.namespace}")
    world.operator()
    return reader


def test_the_readmes_commands_in_a_cluster_work_as_written(world: ClusterWorld, reader: Reader) -> None:
    [commands] = [block for block in blocks("README.md") if FIRST in block]
    said = {command: reader.types(command) for command in commands}
    assert sum(world.copies().values()) == 24, "26 rows: one address can't be used, one person is there twice"
    told = {command.split()[2]: out for command, out in said.items() if command.startswith("kubectl fullsend")}
    assert "Complete (AllAccepted)" in told["status"]
    assert "26 rows read, 1 duplicates, 1 invalid" in told["report"]
    assert told["missing"].count("\n") == 1, "nobody: the header alone"
    assert "soren.0001@letters.example: accepted" in told["why"]


def test_the_walk_through_of_the_plugin_works_as_written(world: ClusterWorld, reader: Reader) -> None:
    commands = [command for block in blocks("docs/kubectl.md") for command in block]
    assert {command.split()[0] for command in commands} == {"kubectl", "gzip"}
    for command in commands:
        reader.types(command)
    copies = world.copies()
    assert copies.pop("you@mail.example") == 1
    assert copies["soren.0001@letters.example"] >= 1
    assert world.condition("Finished", "careful-letter")["reason"] == "AllAccepted"
    world.until("Finished", reason="Cancelled", name="gentle-letter")
