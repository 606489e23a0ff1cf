"""How the API server is reached and who we are to it: a pod's service account, or a kubeconfig.

The official client is for a kubeconfig whose user logs in by a program, as those of managed clusters do; in a pod it is
not imported, which would cost the operator 15 MB. Invariant: a token is never kept for long. The kubelet renews that of
a service account within the hour, in its file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from fullsend.controller.framework import kopf
from fullsend.errors import InvalidInput, Problem

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_KEPT: Final = 60.0
"""Seconds; a token is renewed when a fifth of its time is left, which is minutes at least."""


class Access:
    """``info`` is the way in at the beginning, ``log_in`` makes it anew. Raises InvalidInput where there is none."""

    def __init__(self, environment: Mapping[str, str] = os.environ, *, account: Path = SERVICE_ACCOUNT) -> None:
        self._environment = environment
        self._account = account
        self._headers: Mapping[str, str] = {}
        self._read_at = float("-inf")
        self.info = self.log_in()

    @property
    def server(self) -> str:
        return self.info.server

    def log_in(self) -> kopf.ConnectionInfo:
        """As the files are now."""
        host = self._environment.get("KUBERNETES_SERVICE_HOST", "")
        try:
            if host and not self._environment.get("KUBECONFIG"):
                return self._as_account(host, self._environment.get("KUBERNETES_SERVICE_PORT", "443"))
            return _as_user()
        except (kopf.LoginError, OSError, LookupError, ValueError, AttributeError, TypeError) as error:
            fix = "run in a pod with a service account, or set KUBECONFIG to a file that is one"
            raise InvalidInput([Problem("cluster", f"there is no way to reach it: {error}", fix)]) from error

    def headers(self) -> Mapping[str, str]:
        """What makes a request ours. Raises InvalidInput."""
        if time.monotonic() - self._read_at > TOKEN_KEPT:
            self._headers = self.log_in().as_http_headers()
            self._read_at = time.monotonic()
        return self._headers

    def refused(self) -> None:
        """The server no longer knows the token: look for a newer one at the next request."""
        self._read_at = float("-inf")

    def _as_account(self, host: str, port: str) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(
            server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
            ca_path=str(self._account / "ca.crt"),
            token=(self._account / "token").read_text(encoding="ascii").strip(),
        )


def _as_user() -> kopf.ConnectionInfo:
    """The current context's; LoginError says what is missing."""
    info = kopf.login_with_kubeconfig(settings=kopf.OperatorSettings())
    if info is None:
        raise kopf.LoginError("there is neither $KUBECONFIG nor ~/.kube/config")
    if not info.server:
        raise kopf.LoginError("the kubeconfig's current context names no server")
    if not (info.token or info.username or info.certificate_path or info.certificate_data):
        return _by_the_official_client()
    return replace(info, server=info.server.rstrip("/"))


def _by_the_official_client() -> kopf.ConnectionInfo:
    """It runs the program that the kubeconfig names, and knows the ways of the large clouds. Raises LoginError."""
    from kubernetes.client import Configuration
    from kubernetes.config import ConfigException, load_kube_config

    found = Configuration()
    try:
        load_kube_config(config_file=os.environ.get("KUBECONFIG"), client_configuration=found)  # type: ignore[no-untyped-call]
    except ConfigException as error:
        raise kopf.LoginError(str(error)) from error
    scheme, _, token = (found.get_api_key_with_prefix("BearerToken", alias="authorization") or "").partition(" ")
    if not (token or found.cert_file):
        raise kopf.LoginError("the kubeconfig's user has no token, no client certificate and no program to log in with")
    return kopf.ConnectionInfo(
        server=found.host.rstrip("/"),
        ca_path=found.ssl_ca_cert,
        insecure=not found.verify_ssl,
        scheme=scheme.capitalize() or None,
        token=token or None,
        certificate_path=found.cert_file,
        private_key_path=found.key_file,
    )
