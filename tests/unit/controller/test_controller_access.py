"""The way to the API server: from a pod, from a kubeconfig, and what is said where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fullsend.controller.access import Access
from fullsend.errors import InvalidInput

POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"}


def account(folder: Path, token: str = "first") -> Path:
    (folder / "token").write_text(f"{token}\n")
    return folder


def kubeconfig(path: Path, **user: Any) -> Path:
    whole = {
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "clusters": [{"name": "it", "cluster": {"server": "https://there:6443/"}}],
        "users": [{"name": "it", "user": user}],
    }
    path.write_text(json.dumps(whole))
    return path


def test_a_pod_uses_its_service_account(tmp_path: Path) -> None:
    access = Access(POD, account=account(tmp_path))
    assert access.server == "https://10.96.0.1:6443"
    assert access.headers() == {"Authorization": "Bearer first"}


def test_an_ipv6_service_is_an_address_in_brackets(tmp_path: Path) -> None:
    access = Access({"KUBERNETES_SERVICE_HOST": "fd00::1"}, account=account(tmp_path))
    assert access.server == "https://[fd00::1]:443"


def test_a_token_that_was_renewed_is_used_once_the_old_one_is_refused_or_a_minute_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = Access(POD, account=account(tmp_path))
    access.headers()
    account(tmp_path, "second")
    assert access.headers() == {"Authorization": "Bearer first"}
    access.refused()
    assert access.headers() == {"Authorization": "Bearer second"}
    account(tmp_path, "third")
    monkeypatch.setattr("fullsend.controller.access.TOKEN_KEPT", -1.0)
    assert access.headers() == {"Authorization": "Bearer third"}
    assert access.log_in().token == "third"


def test_a_kubeconfig_is_preferred_to_the_pod_and_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kubeconfig(tmp_path / "config", token="mine")
    monkeypatch.setenv("KUBECONFIG", str(path))
    access = Access({**POD, "KUBECONFIG": str(path)}, account=account(tmp_path))
    assert access.server == "https://there:6443"
    assert access.headers() == {"Authorization": "Bearer mine"}


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (None, "No such file"),
        ("contexts: []", "Current context is not set"),
        ("current-context: gone", "gone"),
        ("[]", "there is no way to reach it"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str | None, told: str
) -> None:
    path = tmp_path / "config"
    if written is not None:
        path.write_text(written)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(InvalidInput, match=told):
        Access({"KUBECONFIG": str(path)})


def test_a_user_who_logs_in_by_a_program_is_logged_in_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "from-it"}}
    program = tmp_path / "auth-plugin"
    program.write_text(f"#!/bin/sh\necho '{json.dumps(said)}'\n")
    program.chmod(0o755)
    run = {"apiVersion": said["apiVersion"], "command": str(program), "interactiveMode": "Never"}
    path = kubeconfig(tmp_path / "config", exec=run)
    monkeypatch.setenv("KUBECONFIG", str(path))
    access = Access({"KUBECONFIG": str(path)})
    assert access.server == "https://there:6443"
    assert access.headers() == {"Authorization": "Bearer from-it"}


def test_a_user_without_any_way_in_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kubeconfig(tmp_path / "config")
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(InvalidInput, match="no token, no client certificate and no program"):
        Access({"KUBECONFIG": str(path)})


def test_an_operator_does_not_carry_the_classes_of_the_official_client() -> None:
    """kopf imports them wherever they are installed: 15 MB."""
    script = (
        "import sys, fullsend.controller.operator; print('kubernetes' in sys.modules); "
        "import kubernetes.config; print('kubernetes' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
