"""Layers of docker and OCI images that try something, lowest first, each named by what it tries."""

from __future__ import annotations

from raw_tar import END, bare, folder, gnu_name, link, pax, raw

UP = b"../" * 30
ESCAPE = b"kvmrkt-escaped"
BASE = bare(folder(b"etc"), raw(b"etc/file", b"content"), raw(b"bin/app", b"app"))

REFUSED = {
    "an absolute path": ([bare(raw(b"/" + ESCAPE, b"x"))], "has an absolute path"),
    "dot dot": ([BASE, bare(raw(UP + ESCAPE, b"x"))], "has a .. in its path"),
    "dot dot in a PAX record": (
        [bare(pax((b"path", UP + ESCAPE)), raw(b"a", b"x"))],
        "has a .. in its path",
    ),
    "dot dot in a GNU long name": (
        [bare(gnu_name(UP + ESCAPE), raw(b"a"))],
        "has a .. in its path",
    ),
    "a whiteout of nothing": ([BASE, bare(raw(b"etc/.wh."))], "a whiteout names"),
    "a whiteout of the folder itself": ([BASE, bare(raw(b"etc/.wh.."))], "a whiteout names"),
    "a whiteout of the folder above": ([BASE, bare(raw(b"etc/.wh..."))], "a whiteout names"),
    "a hard link to the host": (
        [BASE, bare(link(b"a", b"/etc/shadow", b"1"))],
        "which is no file of this or a lower layer",
    ),
    "a hard link up": (
        [BASE, bare(link(b"a", UP + b"etc/shadow", b"1"))],
        "which is no file of this or a lower layer",
    ),
    "a hard link to a file whited out": (
        [BASE, bare(raw(b"etc/.wh.file"), link(b"a", b"etc/file", b"1"))],
        "which is no file of this or a lower layer",
    ),
    "a hard link to a later entry": (
        [bare(link(b"a", b"b", b"1"), raw(b"b"))],
        "which is no file of this or a lower layer",
    ),
    "a hard link to a folder": ([BASE, bare(link(b"a", b"etc", b"1"))], "which is no file"),
    "an entry below a file": ([BASE, bare(raw(b"etc/file/a", b"x"))], "no folder"),
    "a circle of links": (
        [bare(link(b"a", b"b"), link(b"b", b"a"), raw(b"a/c", b"x"))],
        "too many symbolic links",
    ),
    "the top as a link": ([bare(link(b"./", b"/"))], "is no folder"),
    "the top as a pipe": ([bare(raw(b".", kind=b"6"))], "the top of a layer is not a folder"),
    "a sparse file": ([bare(raw(b"a", b"x", kind=b"S"))], "stored as sparse"),
    "an owner no system knows": ([bare(raw(b"a", uid=b"\x80\x80" + bytes(6)))], "owner"),
    "a mode that is no number": ([bare(raw(b"a", mode=b"rwx"))], "(mode"),
    "an end inside a header": ([BASE[:300]], "truncated"),
    "an end inside content": ([bare(raw(b"a", b"x" * 5000))[:3000]], "truncated"),
    "a script": ([b"#!/bin/sh\nrm -rf /\n" * 100], "no tar archive"),
    "a bomb": ([bare(raw(b"a", bytes(16 << 20)))], "larger than"),
    "a bomb of entries": ([bare(*[raw(b"%d" % number) for number in range(2500)])], "entries"),
    "a bomb over several layers": (
        [bare(*[raw(b"%d-%d" % (n, number)) for number in range(900)]) for n in range(3)],
        "more than 2000 entries",
    ),
}

HARMLESS = {
    "a link out, and a file through it": [
        bare(link(b"out", b"/etc")),
        bare(raw(b"out/" + ESCAPE, b"x")),
    ],
    "a link up, and a file through it": [
        bare(link(b"up", UP)),
        bare(raw(b"up/" + ESCAPE, b"x")),
    ],
    "a whiteout through a link out": [bare(link(b"out", b"/etc")), bare(raw(b"out/.wh.passwd"))],
    "a whiteout of what was never there": [BASE, bare(raw(b"gone/.wh.file"), raw(b".wh.gone"))],
    "an opaque top": [BASE, bare(raw(b".wh..wh..opq"), raw(b"bin/app", b"new"))],
    "aufs's own records": [BASE, bare(raw(b".wh..wh.aufs"), raw(b".wh..wh.plnk/x"))],
    "a file twice in one layer": [bare(raw(b"a", b"1"), raw(b"a", b"2"))],
    "a device of the host's disk": [bare(raw(b"sda", kind=b"4", major=b"10"))],
    "rootfs and manifest as names": [bare(raw(b"manifest", b"{}"), folder(b"rootfs"))],
    "a time before 1970": [
        bare(raw(b"a", mtime=b"\xff" * 12), pax((b"mtime", b"-5.5")), raw(b"b"))
    ],
    "a time after 2106": [bare(raw(b"a", mtime=b"77777777777"))],
    "a layer of nothing": [BASE, END],
    "a layer without the closing block, as some tools make them": [BASE[:-1024], BASE],
}
