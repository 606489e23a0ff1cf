"""What somebody does on the first day: the image, the chart, the samples, on a node with containers."""

from __future__ import annotations

from collections import Counter

from e2e.trial import HOME, SPACE, Trial


def test_the_samples_reach_everybody_once_and_it_is_proved(trial: Trial) -> None:
    trial.kubectl("apply", "-n", SPACE, "-f", trial.clone / "manifests" / "samples")
    trial.until_complete("spring-launch", 24)
    taken = trial.sink_of_the_trial()
    assert (len(taken), set(taken.values())) == (24, {1}), (
        "26 rows: one address can't be used, one person is there twice"
    )


def test_only_the_release_is_running_and_none_of_it_was_restarted(trial: Trial) -> None:
    pods = trial.kubectl.object("get", "pods", "-n", HOME)["items"]
    components = Counter(pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in pods)
    assert components == {"operator": 2, "postgresql": 1, "mail-sink": 1}
    for pod in pods:
        statuses = pod["status"]["containerStatuses"]
        assert [status["restartCount"] for status in statuses] == [0] * len(statuses), pod["metadata"]["name"]
