"""What the service at ADDRESS PORT answers by KIND within SECONDS: how it sees us, or an error."""

from __future__ import annotations

import socket
import sys

_PATIENCE_SECONDS = 5.0


def main() -> None:
    address, port, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    patience_seconds = float(sys.argv[4]) if len(sys.argv) > 4 else _PATIENCE_SECONDS
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(
        family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    ) as asking:
        asking.settimeout(patience_seconds)
        try:
            asking.connect((address, port))
            if kind == "udp":
                asking.send(b"?")
            print(asking.recv(100).decode().strip() or "closed")  # noqa: T201
        except OSError as error:
            print("refused" if isinstance(error, ConnectionRefusedError) else str(error))  # noqa: T201


if __name__ == "__main__":
    main()
