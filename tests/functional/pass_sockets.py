"""Starts a program as an init system does that listens for it: KIND:PORT ... -- PROGRAM WORDS.

Says `listening` first.
"""

from __future__ import annotations

import os
import socket
import sys

FIRST_FD = 3


def main() -> None:
    split = sys.argv.index("--")
    listening = []
    for word in sys.argv[1:split]:
        kind, _, port = word.partition(":")
        made = socket.socket(
            socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
        )
        made.bind(("0.0.0.0", int(port)))
        if kind == "tcp":
            made.listen()
        listening.append(made)
    high = [os.dup2(made.fileno(), 100 + index) for index, made in enumerate(listening)]
    for index, fd in enumerate(high):
        os.dup2(fd, FIRST_FD + index)
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    os.environ |= {"LISTEN_FDS": f"{len(listening)}", "LISTEN_PID": f"{os.getpid()}"}
    os.execv(sys.argv[split + 1], sys.argv[split + 1 :])


if __name__ == "__main__":
    main()
