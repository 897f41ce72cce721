"""An image for tests of networks: busybox, and a service whose ports the manifest names."""

from __future__ import annotations

import json
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

from real_pods import BUSYBOX

SOURCE = Path(__file__).with_name("serve_addresses.c")
PORTS = [
    {"name": "web", "protocol": "tcp", "port": 8080, "count": 1},
    {"name": "dns", "protocol": "udp", "port": 5353, "count": 1},
    {"name": "many", "protocol": "tcp", "port": 9000, "count": 3},
]
SERVE = "exec /bin/serve 8080 5353 9000 9001 9002"


def serving_image(folder: Path, **declared: object) -> Path:
    """Make the image in the folder; `declared` is said of each port beside the rest."""
    program = folder / "serve"
    subprocess.run(["gcc", "-static", "-O1", "-o", program, SOURCE], check=True)
    image = folder / "serving.aci"
    with tarfile.open(BUSYBOX) as source, tarfile.open(image, "w") as target:
        for member in source:
            content = source.extractfile(member) if member.isreg() else None
            if member.name == "manifest":
                assert content is not None
                manifest = json.load(content)
                manifest["name"] = "kvmrkt.io/serving"
                manifest["app"]["ports"] = [{**port, **declared} for port in PORTS]
                text = json.dumps(manifest).encode()
                member.size = len(text)
                content = BytesIO(text)
            target.addfile(member, content)
        added = tarfile.TarInfo("rootfs/bin/serve")
        data = program.read_bytes()
        added.mode, added.size = 0o755, len(data)
        target.addfile(added, BytesIO(data))
    return image
