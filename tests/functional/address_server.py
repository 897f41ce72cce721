"""Answers every TCP connection and UDP datagram with its sender's address: PORT [ADDRESS]."""

from __future__ import annotations

import socket
import sys
import threading


def listen(kind: socket.SocketKind, address: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6, kind)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listening.bind((address, port))
    return listening


def bare(address: str) -> bytes:
    return address.removeprefix("::ffff:").encode() + b"\n"


def main() -> None:
    port, address = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "::"
    streams = listen(socket.SOCK_STREAM, address, port)
    streams.listen()
    datagrams = listen(socket.SOCK_DGRAM, address, port)

    def answer_datagrams() -> None:
        while True:
            _, sender = datagrams.recvfrom(2048)
            datagrams.sendto(bare(sender[0]), sender)

    threading.Thread(target=answer_datagrams, daemon=True).start()
    print("ready", flush=True)  # noqa: T201
    while True:
        client, sender = streams.accept()
        with client:
            client.sendall(bare(sender[0]))


if __name__ == "__main__":
    main()
