"""Values that people set, one set a way to install: each is linted, rendered and shown to a real API server."""

from __future__ import annotations

from typing import Any

DATABASE = {"existingSecret": "fullsend-database"}

INSTALLATIONS: dict[str, dict[str, Any]] = {
    "production": {"database": DATABASE},
    "trial": {"postgresql": {"embedded": True}, "mailSink": {"enabled": True, "faults": "realistic"}},
    "trial-without-volume": {
        "postgresql": {"embedded": True, "persistence": {"enabled": False}, "existingSecret": "mine"},
    },
    "namespaces": {"database": DATABASE, "namespaces": ["marketing", "billing"], "clusterId": "example"},
    "bare": {
        "database": {**DATABASE, "key": "uri"},
        "crds": {"install": False},
        "rbac": {"create": False, "userRoles": False},
        "serviceAccount": {"create": False, "name": "mine"},
        "admissionPolicy": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "migrations": {"automatic": False},
        "operator": {"replicas": 1, "podDisruptionBudget": {"enabled": False}},
    },
    "everything": {
        "database": DATABASE,
        "fullnameOverride": "bulk",
        "image": {"registry": "mirror.example:5000", "repository": "a/b", "tag": "1", "digest": "sha256:" + "a" * 64},
        "imagePullSecrets": [{"name": "registry"}],
        "operator": {
            "replicas": 3,
            "priorityClassName": "system-cluster-critical",
            "nodeSelector": {"disk": "fast"},
            "tolerations": [{"key": "mail", "operator": "Exists"}],
            "affinity": {
                "podAntiAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": [
                        {
                            "topologyKey": "kubernetes.io/hostname",
                            "labelSelector": {"matchLabels": {"app.kubernetes.io/component": "operator"}},
                        }
                    ]
                }
            },
            "topologySpreadConstraints": [
                {"topologyKey": "rack", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"},
            ],
            "podAnnotations": {"a": "b"},
            "podLabels": {"team": "mail"},
            "podSecurityContext": {"runAsUser": 1000},
            "extraEnv": [{"name": "PGSSLROOTCERT", "value": "/ca/ca.crt"}],
            "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
            "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca"}],
            "extraArgs": ["--cluster-id=here"],
        },
        "senders": {
            "podOverrides": {
                "metadata": {"annotations": {"a": "b"}},
                "spec": {
                    "priorityClassName": "low",
                    "volumes": [{"name": "tmp", "emptyDir": None, "ephemeral": {}}],
                    "containers": [{"name": "fullsend", "env": [{"name": "X", "value": "y"}]}],
                },
            }
        },
        "serviceAccount": {"annotations": {"role": "mail"}},
        "networkPolicy": {"operatorEgress": [{"ports": [{"port": 5432}]}]},
    },
}
