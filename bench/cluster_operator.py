"""The operator on a real API server: how soon a campaign begins and is complete, what it costs, what it costs at rest.

    python bench/cluster_operator.py                all of it: some 15 minutes on two cores
    python bench/cluster_operator.py --only latency kubectl apply to the first mail, last reply to Complete
    python bench/cluster_operator.py --only idle    100 finished and 10 suspended campaigns: requests, CPU, memory
    python bench/cluster_operator.py --only burst   300 campaigns of 100 recipients, applied at once

etcd, API server, controller manager and scheduler are real (``make cluster-programs`` builds them); each pod is a
process of this machine, and the node has room for ``--room`` of them at a time: most of the burst's time is that of
600 interpreters starting, one or two a core. Exits 1 unless every campaign is complete and each recipient of each has
it once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from cluster.api import Api, Expired
from cluster.control_plane import ROOT, control_plane
from cluster.kubectl import Kubectl
from cluster.objects import API
from support.cluster_world import ClusterWorld, OperatorProcess
from support.own_postgres import OwnPostgres
from support.workspace import Workspace

TICKS = os.sysconf("SC_CLK_TCK")
WITHIN = 1800.0
"""Seconds that anything here may take."""


@dataclass
class Completions:
    """When each campaign became Complete, as a watch tells it: seconds since 1970."""

    kubeconfig: Path
    namespace: str
    at: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def followed(self) -> Iterator[Completions]:
        loop = asyncio.new_event_loop()
        task = loop.create_task(self._follow())
        thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.wait([task])))
        thread.start()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(task.cancel)
            thread.join()
            loop.close()

    async def _follow(self) -> None:
        at = f"{API}/namespaces/{self.namespace}/campaigns"
        async with Api(self.kubeconfig) as api:
            while True:
                listed = await api.get(at)
                for campaign in listed["items"]:
                    self._look(campaign)
                with contextlib.suppress(Expired):
                    async for _, campaign in api.watch(at, listed["metadata"]["resourceVersion"]):
                        self._look(campaign)

    def _look(self, campaign: dict) -> None:
        conditions = campaign.get("status", {}).get("conditions", ())
        if any(each["type"] == "Complete" and each["status"] == "True" for each in conditions):
            self.at.setdefault(campaign["metadata"]["name"], time.time())


@dataclass(frozen=True)
class Usage:
    """What the operator has used by now: CPU in seconds, requests to the API server (watches apart)."""

    at: float
    cpu: float
    requests: float

    @classmethod
    def of(cls, operator: OperatorProcess) -> Usage:
        with urllib.request.urlopen(f"{operator.url}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        requests = sum(
            float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("fullsend_api_requests_total{")
        )
        stat = Path(f"/proc/{operator.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return cls(time.monotonic(), (int(stat[11]) + int(stat[12])) / TICKS, requests)


def memory(operator: OperatorProcess, name: str) -> float:
    """VmRSS, VmHWM (the most so far) or Pss, in MB."""
    file = "smaps_rollup" if name == "Pss" else "status"
    text = Path(f"/proc/{operator.process.pid}/{file}").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) / 1024


def until(what: str, holds: Callable[[], object], every: float = 0.2) -> None:
    end = time.monotonic() + WITHIN
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"not so after {WITHIN:.0f} s: {what}")
        time.sleep(every)


def moments(world: ClusterWorld, subject: str) -> list[float]:
    """When each message with this subject was taken, in seconds since 1970."""
    taken = [entry["time"] for entry in world.place.sinks[0].entries() if entry["subject"] == subject]
    return sorted(datetime.fromisoformat(at).astimezone(UTC).timestamp() for at in taken)


def each_once(world: ClusterWorld, names: list[str], people: list[str]) -> bool:
    """At the sink: every recipient of every one of these campaigns, and once."""
    time.sleep(0.5)  # the journal is flushed every 0.2 s
    copies: Counter[tuple[str, str]] = Counter()
    for entry in world.place.sinks[0].entries():
        copies.update((entry["subject"], address) for address in entry["recipients"])
    missed = sum(copies[name, address] == 0 for name in names for address in people)
    twice = sum(count - 1 for (name, _), count in copies.items() if name in set(names))
    print(f"  missed {missed}, twice {twice}")
    return missed == twice == 0


def latency(world: ClusterWorld, done: Completions, people: list[str], times: int) -> bool:
    names = [f"latency-{number}" for number in range(times)]
    first, last = [], []
    for name in names:
        begun = time.time()
        world.campaign(name, subject=name)
        until(f"{name} is complete", lambda name=name: name in done.at, 0.05)
        time.sleep(0.5)
        taken = moments(world, name)
        first.append(taken[0] - begun)
        last.append(done.at[name] - taken[-1])
    print(f"latency: {times} campaigns of {len(people)} recipients, one after another")
    for what, seconds in (("kubectl apply to the first mail", first), ("last reply to Complete=True", last)):
        print(f"  {what:32} median {statistics.median(seconds):.1f} s, most {max(seconds):.1f} s")
    return each_once(world, names, people)


def idle(world: ClusterWorld, done: Completions, operator: OperatorProcess, people: list[str], seconds: int) -> bool:
    names = [f"finished-{number:03d}" for number in range(100)]
    world.campaigns(names)
    world.campaigns([f"suspended-{number}" for number in range(10)], suspend=True)
    until("100 campaigns are complete", lambda: all(name in done.at for name in names))
    until("10 are planned", lambda: planned(world) == 10, 2)
    time.sleep(60)  # what was under way has ended
    before = Usage.of(operator)
    time.sleep(seconds)
    after = Usage.of(operator)
    took = after.at - before.at
    print(f"idle: 100 finished and 10 suspended campaigns, {took:.0f} s, in the process that has sent them")
    print(
        f"  API requests {(after.requests - before.requests) / took:.2f}/s, CPU {(after.cpu - before.cpu) / took:.1%}"
    )
    print(
        f"  memory: RSS {memory(operator, 'VmRSS'):.0f} MB, PSS {memory(operator, 'Pss'):.0f} MB, "
        f"at most {memory(operator, 'VmHWM'):.0f} MB"
    )
    return each_once(world, names, people)


def planned(world: ClusterWorld) -> int:
    found = [item for item in world.items("campaigns") if item["metadata"]["name"].startswith("suspended-")]
    return sum(item.get("status", {}).get("eligible", 0) > 0 for item in found)


def burst(world: ClusterWorld, done: Completions, operator: OperatorProcess, people: list[str], campaigns: int) -> bool:
    names = [f"burst-{number:03d}" for number in range(campaigns)]
    before = Usage.of(operator)
    begun = time.time()
    world.campaigns(names)
    until("all are complete", lambda: all(name in done.at for name in names), 1)
    took = max(done.at[name] for name in names) - begun
    after = Usage.of(operator)
    cpu, requests = after.cpu - before.cpu, after.requests - before.requests
    print(f"burst: {campaigns} campaigns of {len(people)} recipients applied at once")
    print(f"  all complete after {took:.0f} s, the first after {min(done.at[name] for name in names) - begun:.0f} s")
    print(
        f"  API requests a campaign {requests / campaigns:.1f}, operator CPU {cpu:.0f} s = {cpu / took:.0%} of a core"
    )
    print(f"  memory: RSS {memory(operator, 'VmRSS'):.0f} MB, at most {memory(operator, 'VmHWM'):.0f} MB")
    return each_once(world, names, people)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["latency", "idle", "burst"])
    parser.add_argument("--campaigns", type=int, default=300)
    parser.add_argument("--recipients", type=int, default=100)
    parser.add_argument("--room", type=int, default=8, help="pods that the node runs at a time")
    parser.add_argument("--times", type=int, default=5, help="of the latency")
    parser.add_argument("--idle", type=int, default=180, help="seconds to look at an idle operator")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fsb-", dir="/tmp")))
        plane = stack.enter_context(control_plane(room=options.room))
        postgres = OwnPostgres()
        stack.callback(postgres.close)
        kubectl = Kubectl(str(plane.kubectl), plane.admin, plane)
        kubectl("apply", "--server-side", "-f", ROOT / "crds")
        kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", ROOT / "crds")
        place = Workspace(folder, postgres.dsn)
        stack.callback(place.close)
        world = ClusterWorld(kubectl, "default", place)
        stack.callback(world.close)
        world.transport(place.sink().port)
        people = world.recipients(options.recipients)
        operator = world.operator(everywhere=True)
        until("the operator leads", operator.leads)
        time.sleep(5)
        done = stack.enter_context(Completions(plane.admin, "default").followed())
        held = True
        if options.only in (None, "latency"):
            held &= latency(world, done, people, options.times)
        if options.only in (None, "idle"):
            held &= idle(world, done, operator, people, options.idle)
        if options.only in (None, "burst"):
            held &= burst(world, done, operator, people, options.campaigns)
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
