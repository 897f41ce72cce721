"""A small internet in namespaces of its own: example.com, with TLS on port 443.

Run as `unshare --net --mount python name_world.py FOLDER`: serves the folder's files, and its file
`page.html` for discovery. Each line of standard input is a command as JSON; its outcome is a line
of standard output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

from web_server import Answer, Request, authority, serving

HOST = "example.com"


def main() -> None:
    folder = Path(sys.argv[1])
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {HOST}\n")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)
    trusted = folder / "authority.pem"
    authority().cert_pem.write_to_path(str(trusted))
    environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    environment["SSL_CERT_FILE"] = str(trusted)

    class Everything(dict[str, object]):
        """An answer for every path."""

        def get(self, path: str, default: object = None) -> object:
            """What the folder has at a path."""
            return lambda request: answer(folder, request)

    with serving(hosts=(HOST,), port=443) as server:
        server.answers = Everything()  # type: ignore[assignment]
        print("ready", flush=True)  # noqa: T201
        for line in sys.stdin:
            done = subprocess.run(
                json.loads(line), capture_output=True, text=True, check=False, env=environment
            )
            result = {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
            print(json.dumps(result | {"asked": server.paths()}), flush=True)  # noqa: T201
            server.asked.clear()


def answer(folder: Path, request: Request) -> Answer:
    """The file at a path; the page for whoever discovers."""
    if "ac-discovery=1" in request.path:
        return Answer((folder / "page.html").read_bytes())
    path = folder / request.path.lstrip("/")
    return Answer(path.read_bytes(), etag='"1"') if path.is_file() else Answer(b"", 404)


if __name__ == "__main__":
    main()
