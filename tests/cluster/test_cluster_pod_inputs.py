"""What stands in for a container's file system where there is no mount namespace, and Kubernetes' own ``$(NAME)``."""

from __future__ import annotations

from pathlib import Path

from cluster.pod_inputs import expanded, moved

MOUNTS = [(Path("/pods/secret"), "/fullsend", True), (Path("/pods/scratch"), "/fullsend/scratch", False)]


def test_a_path_below_a_mount_is_found_in_its_folder() -> None:
    assert moved("--job=/fullsend/job.json", MOUNTS) == "--job=/pods/secret/job.json"
    assert moved("/fullsend/scratch/x /fullsend", MOUNTS) == "/pods/scratch/x /pods/secret"


def test_a_path_that_only_begins_like_a_mount_is_left_alone() -> None:
    assert moved("/fullsend-other/x", MOUNTS) == "/fullsend-other/x"


def test_names_are_expanded_as_kubernetes_does() -> None:
    env = {"POD": "sender-0", "A.B": "dotted"}
    assert expanded("$(POD) $(A.B) $(NONE) $$(POD) $POD", env) == "sender-0 dotted $(NONE) $(POD) $POD"
