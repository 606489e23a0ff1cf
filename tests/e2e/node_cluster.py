"""A Kubernetes with one real node on this machine: kubelet, containerd and runc, a pod network, services, DNS.

It lives in network, mount and process namespaces that ``make e2e`` made for it, so that its addresses are nobody
else's, and nothing of it is left when they go. Every pod here is what a user's would be: an image, users, limits,
probes, a network address.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import trustme

from cluster import binaries
from cluster.control_plane import ClusterFailed, Component, ControlPlane
from cluster.kubectl import Kubectl
from e2e.images import PAUSE
from e2e.needs import PLUGINS

NODE = "local"
ADDRESS = "10.200.0.1"
PODS = "10.244.0.0/16"
DNS = "10.96.0.10"
SIGNER = ("kube-apiserver-kubelet-client", "system:masters")


class NodeCluster(ControlPlane):
    """``start`` returns when the node is ready and has the images."""

    USERS: Mapping[str, tuple[str, str]] = {
        **ControlPlane.USERS,
        "node": (f"system:node:{NODE}", "system:nodes"),
        "proxy": ("system:kube-proxy", ""),
    }
    ADDRESS = ADDRESS

    def __init__(self, folder: Path, images: Path) -> None:
        super().__init__(folder, pods=False)
        self._images = images
        self._kubelet, self._containerd, self._coredns = (what.folder for what in binaries.NODE)
        self._socket = folder / "containerd.sock"

    def start(self) -> None:
        self._make_network()
        super().start()
        try:
            self._make_node()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Nothing of it is needed again: containers and mounts end with their namespaces."""
        for component in self.components.values():
            component.kill()

    def as_admin(self) -> Kubectl:
        return Kubectl(str(self.kubectl), self.admin, self)

    def _write_credentials(self) -> None:
        super()._write_credentials()
        client = self.authority.issue_cert(
            "kubelet-client.invalid", common_name=SIGNER[0], organization_name=SIGNER[1], key_type=trustme.KeyType.ECDSA
        )
        client.private_key_and_cert_chain_pem.write_to_path(self.folder / "kubelet-client.pem")
        for user in ("node", "proxy"):
            self.kubeconfig(self.folder / f"{user}.kubeconfig", self._tokens[user])

    def _make_network(self) -> None:
        for command in (
            "ip link set lo up",
            "ip link add node0 type bridge",
            f"ip address add {ADDRESS}/24 dev node0",
            "ip link set node0 up",
            "ip route add default dev node0",
        ):
            subprocess.run(command.split(), check=True)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    def _lay_out(self) -> None:
        super()._lay_out()
        server = list(self.components["kube-apiserver"].command)
        server.remove("--endpoint-reconciler-type=none")
        client = self.folder / "kubelet-client.pem"
        server += [f"--advertise-address={ADDRESS}", f"--kubelet-client-certificate={client}"]
        server += [f"--kubelet-client-key={client}"]
        self.components["kube-apiserver"].command = server
        self.components["kube-controller-manager"].command = [
            *self.components["kube-controller-manager"].command,
            "--allocate-node-cidrs",
            f"--cluster-cidr={PODS}",
        ]

    def _add(self, name: str, *command: str | Path, **environment: str) -> None:
        self.components[name] = Component(name, command, self.folder / f"{name}.log", environment)
        self.components[name].start()

    def _make_node(self) -> None:
        (self.folder / "containerd.toml").write_text(self._containerd_settings())
        network = self.folder / "cni"
        network.mkdir()
        (network / "pods.conflist").write_text(json.dumps(_pod_network()))
        path = f"{self._containerd}:{os.environ['PATH']}"
        self._add(
            "containerd", self._containerd / "containerd", f"--config={self.folder / 'containerd.toml'}", PATH=path
        )
        self._until("containerd listens", self._socket.exists)
        for archive in sorted(self._images.glob("*.tar")):
            self.ctr("images", "import", "--local", archive)
        (self.folder / "kubelet.json").write_text(json.dumps(self._kubelet_settings()))
        self._add(
            "kubelet",
            self._kubelet / "kubelet",
            f"--config={self.folder / 'kubelet.json'}",
            f"--kubeconfig={self.folder / 'node.kubeconfig'}",
            f"--root-dir={self.folder / 'kubelet'}",
            f"--cert-dir={self.folder / 'kubelet-certificates'}",
            f"--hostname-override={NODE}",
            f"--node-ip={ADDRESS}",
        )
        self._add(
            "kube-proxy",
            self._kubelet / "kube-proxy",
            f"--kubeconfig={self.folder / 'proxy.kubeconfig'}",
            "--proxy-mode=nftables",
            f"--hostname-override={NODE}",
            f"--cluster-cidr={PODS}",
            "--conntrack-max-per-core=0",
        )
        self._name_service()
        self._until("the node is ready", self._node_is_ready)

    def ctr(self, *arguments: str | Path) -> str:
        """containerd's own command; everything of Kubernetes is in the namespace k8s.io."""
        command = [self._containerd / "ctr", "--address", self._socket, "--namespace", "k8s.io", *arguments]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise ClusterFailed(f"ctr {' '.join(map(str, arguments))}: {done.stderr}")
        return done.stdout

    def _name_service(self) -> None:
        """CoreDNS beside the node, as the Service that kubelets tell their pods."""
        (self.folder / "Corefile").write_text(
            f".:53 {{\n bind {ADDRESS}\n errors\n kubernetes cluster.local in-addr.arpa {{\n  kubeconfig {self.admin}\n"
            "  ttl 5\n }\n}\n"
        )
        self._add("coredns", self._coredns / "coredns", "-conf", self.folder / "Corefile")
        ports = [
            {"name": name, "port": 53, "protocol": protocol} for name, protocol in (("udp", "UDP"), ("tcp", "TCP"))
        ]
        service = {"metadata": {"name": "kube-dns", "namespace": "kube-system"}, "apiVersion": "v1", "kind": "Service"}
        slice_ = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kube-dns",
                "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": "kube-dns"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [ADDRESS]}],
            "ports": ports,
        }
        items = [{**service, "spec": {"clusterIP": DNS, "ports": ports}}, slice_]
        self.as_admin()("apply", "-f", "-", given={"apiVersion": "v1", "kind": "List", "items": items})

    def _kubelet_settings(self) -> dict[str, Any]:
        (self.folder / "resolv.conf").write_text("")
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": "/",
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            "clusterDNS": [DNS],
            "clusterDomain": "cluster.local",
            "resolvConf": str(self.folder / "resolv.conf"),
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.folder / "ca.pem")},
            },
            "authorization": {"mode": "Webhook"},
            # A test machine's disk is its owner's affair.
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "podLogsDir": str(self.folder / "pod-logs"),
        }

    def _containerd_settings(self) -> str:
        return f"""
version = 3
root = "{self.folder / "containerd-root"}"
state = "{self.folder / "containerd-state"}"
[grpc]
  address = "{self._socket}"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
  # Without CAP_SYS_RESOURCE nobody may lower it, and every sandbox would die of that.
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{PLUGINS}"]
  conf_dir = "{self.folder / "cni"}"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  SystemdCgroup = false
"""


def _pod_network() -> dict[str, Any]:
    ranges = [[{"subnet": "10.244.0.0/24"}]]
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True}
    ipam = {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/cni-addresses"}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [{**bridge, "ipam": ipam}, {"type": "loopback"}]}


@contextlib.contextmanager
def node_cluster(images: Path) -> Iterator[NodeCluster]:
    """Its folder is removed by ``make e2e``: before its namespaces end, containers have mounts in it."""
    one = NodeCluster(Path(tempfile.mkdtemp(prefix="node-")), images)
    one.start()
    try:
        yield one
    finally:
        one.stop()
