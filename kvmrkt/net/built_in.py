"""The networks every host has: rkt's `default` and `default-restricted`, in its own form."""

from __future__ import annotations

BUILT_IN_NETWORKS = {
    "99-default.conf": b"""{
    "name": "default", "type": "ptp", "ipMasq": true,
    "ipam": {"type": "host-local", "subnet": "172.16.28.0/24", "routes": [{"dst": "0.0.0.0/0"}]}
}""",
    "99-default-restricted.conf": b"""{
    "name": "default-restricted", "type": "ptp", "ipMasq": false,
    "ipam": {"type": "host-local", "subnet": "172.31.0.0/16"}
}""",
}
