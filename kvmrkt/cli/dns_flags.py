"""Names in a pod: `--dns…`, `--hosts-entry` and `--hostname`, with rkt's rules and errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvmrkt.cli.flags import repeated, value
from kvmrkt.errors import UsageError, describe

if TYPE_CHECKING:
    import click

DNS_FLAGS: list[click.Option] = [
    repeated("--dns", "Name servers, or host for the host's resolv.conf, or none.", "IP,..."),
    repeated("--dns-search", "Search domains for resolv.conf.", "DOMAIN"),
    repeated("--dns-opt", "Options for resolv.conf.", "OPTION"),
    value("--dns-domain", "The local domain for resolv.conf."),
    repeated("--hosts-entry", "Lines for /etc/hosts, or host for the host's file.", "IP=NAME,..."),
    value("--hostname", "The pod's host name; rkt-UUID by default."),
]

HOST_ETC = Path("/etc")

Entries = tuple[tuple[str, tuple[str, ...]], ...]

_MAX_FILE_BYTES = 1 << 16
_MAX_HOSTNAME = 64
"""Linux's own limit."""
_WORD = r"[!-~]+"
_HOSTNAME = r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?"


def resolv_conf(flags: dict[str, Any]) -> str | None:
    """What /etc/resolv.conf says; None leaves the image's own. Raises UsageError."""
    if not any(flags[name] for name in ("dns", "dns_search", "dns_opt", "dns_domain")):
        return None
    from kvmrkt.pods import dns

    magic, servers = _servers(flags["dns"])
    names = dns.NameServers(
        servers,
        search=_words("--dns-search", flags["dns_search"]),
        options=_words("--dns-opt", flags["dns_opt"]),
        domain="".join(_words("--dns-domain", (flags["dns_domain"],) * bool(flags["dns_domain"]))),
    )
    text = dns.resolv_conf(names)
    if not magic:
        return text
    if text is not None:
        raise UsageError(f"Cannot call --dns-opt, --dns-search, or --dns-domain with --dns={magic}")
    return _host_file("resolv.conf", "--dns=host") if magic == "host" else None


def _servers(words: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The lone word `host` or `none`, or the addresses."""
    for word in words:
        if word in ("host", "none"):
            if len(words) > 1:
                raise UsageError(f"no other --dns options allowed when --dns={word} is passed")
            return word, ()
    servers = tuple(part for word in words for part in word.split(","))
    for server in servers:
        if not _is_ip(server):
            raise UsageError(f"Invalid IP passed to --dns: {server}")
    return "", servers


def hosts(flags: dict[str, Any]) -> tuple[str | None, Entries]:
    """The whole of /etc/hosts, if it is the host's, or the entries to add. Raises UsageError."""
    words: tuple[str, ...] = flags["hosts_entry"]
    if "host" in words:
        if len(words) > 1:
            raise UsageError("cannot pass --hosts-entry=host with multiple hosts-entries")
        return _host_file("hosts", "--hosts-entry=host"), ()
    return None, tuple(_entry(part) for word in words for part in word.split(","))


def _entry(text: str) -> tuple[str, tuple[str, ...]]:
    address, equals, name = text.partition("=")
    if not equals or not re.fullmatch(_WORD, name) or "#" in name:
        raise UsageError(f"Did not understand --hosts-entry {text}", hint="write IP=NAME")
    if not _is_ip(address):
        raise UsageError(f"Invalid IP passed to --hosts-entry: {address}")
    return address, (name,)


def hostname(flags: dict[str, Any]) -> str | None:
    """The name asked for, if any. Raises UsageError for one that is none."""
    name: str | None = flags["hostname"] or None
    if name is not None and (len(name) > _MAX_HOSTNAME or not re.fullmatch(_HOSTNAME, name)):
        raise UsageError(
            f'invalid --hostname "{name}"',
            hint=f"at most {_MAX_HOSTNAME} letters, digits, dots and dashes",
        )
    return name


def _words(flag: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """Words for a line of resolv.conf; one flag may hold several."""
    parts = tuple(part for word in words for part in word.split(" "))
    for part in parts:
        if not re.fullmatch(_WORD, part):
            raise UsageError(f"invalid word {part!r} passed to {flag}")
    return parts


def _is_ip(text: str) -> bool:
    from ipaddress import ip_address

    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _host_file(name: str, flag: str) -> str:
    """A file of the host's, as far as a pod may have it."""
    path = HOST_ETC / name
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read the host's file for {flag}: {describe(error)}") from None
    if len(content) > _MAX_FILE_BYTES:
        raise UsageError(f"{path} is too large for {flag}: over {_MAX_FILE_BYTES} bytes")
    return content.decode(errors="replace")
