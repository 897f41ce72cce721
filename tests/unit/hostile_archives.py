"""Archives that try something, each named by what it tries: refused ones, and harmless ones."""

from __future__ import annotations

import json

from aci_files import manifest
from raw_tar import END, bare, folder, gnu_name, image, link, pax, raw

MANIFEST = raw(b"manifest", json.dumps(manifest()).encode())
ROOTFS = folder(b"rootfs")
FILE = raw(b"rootfs/file", b"content")
ESCAPE = b"kvmrkt-escaped"
UP = b"../" * 30

PATHS = {
    "absolute path": (image(raw(b"/" + ESCAPE, b"x")), "has an absolute path"),
    "absolute path below rootfs": (image(raw(b"/rootfs/a", b"x")), "has an absolute path"),
    "absolute path in the prefix field": (
        image(raw(ESCAPE, b"x", prefix=b"/")),
        "has an absolute path",
    ),
    "absolute path in a PAX record": (
        image(pax((b"path", b"/" + ESCAPE)), raw(b"rootfs/a", b"x")),
        "has an absolute path",
    ),
    "absolute path in a GNU long name": (
        image(gnu_name(b"/" + ESCAPE), raw(b"rootfs/a", b"x")),
        "has an absolute path",
    ),
    "dot dot to leave the store": (image(raw(UP + ESCAPE, b"x")), "has a .. in its path"),
    "dot dot after rootfs": (image(raw(b"rootfs/../a", b"x")), "has a .. in its path"),
    "dot dot at the end": (image(folder(b"rootfs/a/..")), "has a .. in its path"),
    "dot dot in the prefix field": (
        image(raw(b"a", b"x", prefix=b"rootfs/..")),
        "has a .. in its path",
    ),
    "dot dot in a PAX record": (
        image(pax((b"path", b"rootfs/" + UP + ESCAPE)), raw(b"rootfs/a", b"x")),
        "has a .. in its path",
    ),
    "dot dot in a GNU long name": (
        image(gnu_name(UP + ESCAPE), raw(b"rootfs/a", b"x")),
        "has a .. in its path",
    ),
    "a dot inside a path": (
        image(raw(b"rootfs/./a", b"x")),
        "not everybody reads alike",
    ),
    "an empty part at the start": (
        image(raw(b".//rootfs/a", b"x")),
        "not everybody reads alike",
    ),
    "an empty part in the prefix field": (
        image(raw(b"rootfs/a", b"x", prefix=b"./")),
        "not everybody reads alike",
    ),
    "a prefix that only some formats have": (
        image(raw(b"a", b"x", prefix=b"rootfs", magic=b"ustar  \0"), raw(b"rootfs/b")),
        "not everybody reads alike",
    ),
    "a prefix that moves a file": (
        image(raw(b"rootfs/a", b"x", prefix=b"rootfs", magic=b"")),
        "not everybody reads alike",
    ),
    "an empty part inside a path": (
        image(raw(b"rootfs//a", b"x")),
        "not everybody reads alike",
    ),
    "an empty part at the end": (
        image(folder(b"rootfs/a//")),
        "not everybody reads alike",
    ),
    "an entry beside rootfs": (image(raw(b"other", b"x")), "is neither manifest nor below rootfs"),
    "rootfs as a mere prefix": (image(raw(b"rootfs2/a")), "is neither manifest nor below rootfs"),
    "rootfs in capitals": (image(raw(b"ROOTFS/a")), "is neither manifest nor below rootfs"),
    "something below the manifest": (
        image(raw(b"manifest/a")),
        "is neither manifest nor below rootfs",
    ),
    "an empty name": (image(raw(b"", b"x")), "has no usable name"),
    "an empty name in a PAX record": (image(pax((b"path", b"")), FILE), "has no usable name"),
    "a NUL in a PAX record's name": (
        image(pax((b"path", b"rootfs/a\0b")), FILE),
        "has no usable name",
    ),
    "a file named as a folder": (image(raw(b"rootfs/a/", b"x")), "but its name ends in a slash"),
    "a name of 256 bytes": (
        image(gnu_name(b"rootfs/" + b"a" * 256), FILE),
        "a name of more than 255 bytes",
    ),
    "a path of 5000 bytes": (image(gnu_name(b"rootfs" + b"/aaaa" * 1000), FILE), "path has 5006"),
    "a path of 400000 folders": (image(pax((b"path", b"rootfs" + b"/a" * 400_000)), FILE), "path"),
    "the top as a pipe": (image(raw(b".", kind=b"6")), "the top of the archive is not a folder"),
    "the top as a link": (image(link(b"./", b"/")), "is no folder"),
}

TWICE = {
    "a file twice": (image(raw(b"rootfs/a", b"1"), raw(b"rootfs/a", b"2")), "is there twice"),
    "a folder twice, spelled otherwise": (
        image(folder(b"rootfs/a"), folder(b"./rootfs/a/")),
        "is there twice",
    ),
    "a second manifest": (image(raw(b"./manifest", b"{}")), "is there twice"),
    "a second rootfs": (image(folder(b"./rootfs/")), "is there twice"),
    "a folder that turns into a link": (
        image(folder(b"rootfs/a"), link(b"rootfs/a", b"/etc")),
        "is there twice",
    ),
    "an implied folder that turns into a link": (
        image(raw(b"rootfs/a/b"), link(b"rootfs/a", b"/etc")),
        "is there twice",
    ),
    "a link that turns into a folder": (
        image(link(b"rootfs/a", b"/"), folder(b"rootfs/a")),
        "is there twice",
    ),
    "a file that turns into a device": (image(FILE, raw(b"rootfs/file", kind=b"3")), "twice"),
}

LINKS = {
    "a file below a link out": (
        image(link(b"rootfs/a", b"/"), raw(b"rootfs/a/" + ESCAPE, b"x")),
        "lies below 'rootfs/a', no folder",
    ),
    "a folder below a link up": (
        image(link(b"rootfs/a", UP), folder(b"rootfs/a/" + ESCAPE)),
        "lies below 'rootfs/a', no folder",
    ),
    "an entry below a file": (image(FILE, raw(b"rootfs/file/a/b")), "lies below 'rootfs/file'"),
    "an entry below a pipe": (
        image(raw(b"rootfs/p", kind=b"6"), raw(b"rootfs/p/a")),
        "lies below 'rootfs/p', no folder",
    ),
    "an entry below a hard link": (
        image(FILE, link(b"rootfs/h", b"rootfs/file", b"1"), raw(b"rootfs/h/a")),
        "lies below 'rootfs/h', no folder",
    ),
    "a hard link to the host": (
        image(link(b"rootfs/a", b"/etc/shadow", b"1")),
        "not an earlier entry",
    ),
    "a hard link up to the host": (
        image(link(b"rootfs/a", UP + b"etc/shadow", b"1")),
        "not an earlier entry",
    ),
    "a hard link up, from inside rootfs": (
        image(link(b"rootfs/a", b"rootfs/../../etc/shadow", b"1")),
        "not an earlier entry",
    ),
    "a hard link through a symbolic one": (
        image(link(b"rootfs/l", b"/etc"), link(b"rootfs/a", b"rootfs/l/shadow", b"1")),
        "not an earlier entry",
    ),
    "a hard link in a PAX record": (
        image(pax((b"linkpath", b"/etc/shadow")), link(b"rootfs/a", b"rootfs/file", b"1")),
        "not an earlier entry",
    ),
    "a hard link in a GNU long link": (
        image(FILE, gnu_name(b"/etc/shadow", b"K"), link(b"rootfs/a", b"rootfs/file", b"1")),
        "not an earlier entry",
    ),
    "a hard link to the manifest": (
        image(link(b"rootfs/a", b"manifest", b"1")),
        "not an earlier entry",
    ),
    "a hard link to itself": (image(link(b"rootfs/a", b"rootfs/a", b"1")), "not an earlier entry"),
    "a hard link to a later entry": (
        image(link(b"rootfs/a", b"rootfs/file", b"1"), FILE),
        "not an earlier entry",
    ),
    "a hard link to a missing entry": (
        image(FILE, link(b"rootfs/a", b"rootfs/gone", b"1")),
        "not an earlier entry",
    ),
    "a hard link to nothing": (image(link(b"rootfs/a", b"", b"1")), "not an earlier entry"),
    "a hard link to a folder": (
        image(folder(b"rootfs/d"), link(b"rootfs/a", b"rootfs/d", b"1")),
        "points to a folder",
    ),
    "a hard link to rootfs": (image(link(b"rootfs/a", b"rootfs", b"1")), "not an earlier entry"),
    "the manifest as a link": (
        bare(link(b"manifest", b"/etc/passwd"), ROOTFS),
        "the image manifest is not a regular file",
    ),
    "the manifest as a hard link": (
        bare(ROOTFS, FILE, link(b"manifest", b"rootfs/file", b"1")),
        "the image manifest is not a regular file",
    ),
    "the manifest as a pipe": (bare(raw(b"manifest", kind=b"6"), ROOTFS), "not a regular file"),
    "the manifest as a device": (bare(raw(b"manifest", kind=b"3"), ROOTFS), "not a regular file"),
    "the manifest as a folder": (bare(folder(b"manifest"), ROOTFS), "not a regular file"),
    "rootfs as a link": (bare(MANIFEST, link(b"rootfs", b"/")), "rootfs is not a folder"),
    "rootfs as a file": (bare(MANIFEST, raw(b"rootfs", b"x")), "rootfs is not a folder"),
    "rootfs as a hard link": (
        bare(MANIFEST, link(b"rootfs", b"manifest", b"1")),
        "rootfs is not a folder",
    ),
    "no rootfs": (bare(MANIFEST), "no rootfs folder"),
    "only an implied rootfs": (bare(MANIFEST, FILE), "no rootfs folder"),
    "no manifest": (bare(ROOTFS, FILE), "no image manifest"),
    "an archive of nothing": (bare(), "no image manifest"),
}

KINDS = {
    "a volume label": (image(raw(b"rootfs/a", kind=b"V")), "unknown kind"),
    "a continued volume": (image(raw(b"rootfs/a", b"x", kind=b"M")), "unknown kind"),
    "GNU's list of a folder": (image(raw(b"rootfs/a", b"Yb\0\0", kind=b"D")), "unknown kind"),
    "a contiguous file": (image(raw(b"rootfs/a", b"x", kind=b"7")), "unknown kind"),
    "a vendor's kind": (image(raw(b"rootfs/a", kind=b"A")), "unknown kind"),
    "Solaris' extended header": (image(raw(b"rootfs/a", b"x", kind=b"X"), FILE), "unknown kind"),
    "GNU sparse": (image(raw(b"rootfs/a", b"x", kind=b"S")), "stored as sparse"),
    **{
        f"PAX sparse {key.decode()}": (image(pax((key, value)), FILE), "stored as sparse")
        for key, value in (
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.map", b"0,9999999999"),
            (b"GNU.sparse.name", b"/" + ESCAPE),
            (b"GNU.sparse.size", b"99999999999"),
        )
    },
    "PAX sparse for all": (
        image(pax((b"GNU.sparse.major", b"1"), kind=b"g"), FILE),
        "stored as sparse",
    ),
    "a link with content": (
        image(raw(b"rootfs/a", FILE, kind=b"2", link=b"x")),
        "has content, but is no regular file",
    ),
    "a folder with content": (image(raw(b"rootfs/a", FILE, kind=b"5")), "has content"),
    "a device with content": (image(raw(b"rootfs/a", FILE, kind=b"3")), "has content"),
    "a pipe with content": (image(raw(b"rootfs/a", FILE, kind=b"6")), "has content"),
    "a hard link with content": (
        image(FILE, raw(b"rootfs/a", FILE, kind=b"1", link=b"rootfs/file")),
        "has content",
    ),
    "a folder with content in a PAX record": (
        image(pax((b"size", b"512")), folder(b"rootfs/a"), FILE),
        "has content",
    ),
}

EXTENDED = {
    **{
        f"a PAX record {what}": (image(pax(record), FILE), "an extended header is malformed")
        for what, record in {
            "of length 0": b"0 path=rootfs/a\n",
            "of length 4": b"4 a\n",
            "longer than its header": b"99 path=rootfs/a\n",
            "shorter than it says": b"11 path=rootfs/a\n",
            "with a negative length": b"-20 path=rootfs/a\n",
            "with a length of 100 digits": b"9" * 100 + b" path=rootfs/a\n",
            "with an octal-looking length": b"0x14 path=rootfs/a\n",
            "without an equals sign": b"15 path rootfs\n",
            "without a newline": b"17 path=rootfs/ax",
            "of nothing but zeros": bytes(64),
        }.items()
    },
    "a PAX size that is no number": (image(pax((b"size", b"0x10")), FILE), "(size b'0x10')"),
    "a negative PAX size": (image(pax((b"size", b"-512")), FILE), "(size b'-512')"),
    "a PAX size of 30 digits": (image(pax((b"size", b"9" * 30)), FILE), "malformed (size"),
    "a PAX size beyond the end": (image(pax((b"size", b"9" * 12)), FILE), "archive is"),
    "a PAX size that hides an entry": (
        image(pax((b"size", b"1536")), raw(b"rootfs/a", b"x" * 512), FILE, end=END[:511]),
        "truncated",
    ),
    "a PAX size that shows content as entries": (
        image(pax((b"size", b"0")), raw(b"rootfs/a", raw(b"/" + ESCAPE, b"x"))),
        "has an absolute path",
    ),
    "a PAX time that is no number": (image(pax((b"mtime", b"now")), FILE), "malformed (mtime"),
    "a PAX owner that is no number": (image(pax((b"uid", b"root")), FILE), "malformed (uid"),
    "a PAX owner no system knows": (image(pax((b"uid", b"9" * 15)), FILE), "owner"),
    "a PAX name for all": (
        image(pax((b"path", b"rootfs/a"), kind=b"g"), FILE),
        "a global header sets 'path' for all entries",
    ),
    "a PAX link for all": (
        image(pax((b"linkpath", b"/etc/shadow"), kind=b"g"), FILE),
        "a global header sets 'linkpath' for all entries",
    ),
    "a PAX size for all": (
        image(pax((b"size", b"0"), kind=b"g"), FILE),
        "a global header sets 'size' for all entries",
    ),
    "a PAX owner for all": (
        image(pax((b"uid", b"7"), kind=b"g"), FILE),
        "a global header sets 'uid' for all entries",
    ),
    "a PAX attribute for all": (
        image(pax((b"SCHILY.xattr.security.capability", b"x"), kind=b"g"), FILE),
        "a global header sets 'SCHILY.xattr.security.capability' for all entries",
    ),
    "a PAX header of 2 MiB": (
        image(pax((b"comment", bytes(2 << 20))), FILE),
        "an extended header has 2097",
    ),
    "a PAX header of 8 EiB": (
        image(raw(b"pax", kind=b"x", size=b"\x80\0\0\0\x7f" + b"\xff" * 7), FILE),
        "an extended header has 9",
    ),
    "two PAX headers": (
        image(pax((b"path", b"rootfs/a")), pax((b"path", b"/b")), FILE),
        "two extended headers of one kind",
    ),
    "two GNU long names": (
        image(gnu_name(b"rootfs/a"), gnu_name(b"/b"), FILE),
        "two extended headers of one kind",
    ),
    "a PAX header for nothing": (image(pax((b"path", b"rootfs/a"))), "its last entry lacks"),
    "a GNU long name for nothing": (image(gnu_name(b"rootfs/a")), "its last entry lacks"),
}

HEADERS = {
    "a wrong checksum": (image(raw(b"rootfs/a", checksum=b"000000\0 ")), "wrong checksum"),
    "a checksum that is no number": (image(raw(b"rootfs/a", checksum=b"zzzzzz")), "checksum"),
    "a size that is no number": (image(raw(b"rootfs/a", size=b"12x")), "is damaged (size"),
    "a size with a sign": (image(raw(b"rootfs/a", size=b"-0000000010")), "is damaged (size"),
    "a base-256 size of 2**80": (
        image(raw(b"rootfs/a", size=b"\x80\x01" + bytes(10))),
        "the archive is",
    ),
    "a time that is no number": (image(raw(b"rootfs/a", mtime=b"yesterday")), "(mtime"),
    "a time before 1970": (image(raw(b"rootfs/a", mtime=b"\xff" * 12)), "a time before 1970"),
    "a time before 1970 in a PAX record": (
        image(pax((b"mtime", b"-5.5")), FILE),
        "a time before 1970",
    ),
    "a time after 2106": (image(raw(b"rootfs/a", mtime=b"77777777777")), "or after 2105"),
    "a mode with an underscore": (image(raw(b"rootfs/a", mode=b"75_5")), "(mode"),
    "a mode with a sign": (image(raw(b"rootfs/a", mode=b"+755")), "(mode"),
    "a size below zero": (image(raw(b"rootfs/a", size=b"\xff" * 12)), "the archive is"),
    "a mode that is no number": (image(raw(b"rootfs/a", mode=b"rwxr-x")), "(mode"),
    "a mode that mksquashfs crashes on": (
        image(folder(b"rootfs/a", mode=b"7777777"), raw(b"rootfs/a/b")),
        "mode says that it is something else",
    ),
    "a file whose mode says it is a device": (
        image(raw(b"rootfs/a", mode=b"0060644")),
        "mode says that it is something else",
    ),
    "an owner that is no number": (image(raw(b"rootfs/a", uid=b"root")), "(uid"),
    "a group that is no number": (image(raw(b"rootfs/a", gid=b"root")), "(gid"),
    "a base-256 owner of 2**55": (image(raw(b"rootfs/a", uid=b"\x80\x80" + bytes(6))), "owner"),
    "a device that is no number": (image(raw(b"rootfs/a", kind=b"3", major=b"x")), "(device"),
    "a device no system knows": (
        image(raw(b"rootfs/a", kind=b"4", major=b"\x80\x7f" + bytes(6))),
        "device",
    ),
}

ENDS = {
    "an end inside a header": (image(FILE[:300], end=b""), "truncated"),
    "an end inside content": (image(raw(b"rootfs/a", b"x" * 5000)[:3000], end=b""), "truncated"),
    "an end inside a PAX header": (image(pax((b"comment", b"x" * 2000))[:1000], end=b""), "trunc"),
    "an end without the closing block": (image(FILE, end=b""), "truncated"),
    "data after the end": (image(FILE) + b"x" * 512, "data after the end"),
    "a second archive after the end": (image(FILE) * 2, "data after the end"),
    "a hidden entry after the end": (image(FILE) + raw(b"rootfs/b") + END, "data after the end"),
    "a hidden entry after 2 MiB of zeros": (
        image(FILE) + bytes(2 << 20) + raw(b"rootfs/b") + END,
        "data after the end",
    ),
}

REFUSED = PATHS | TWICE | LINKS | KINDS | EXTENDED | HEADERS | ENDS

HARMLESS = {
    "a device of the host's disk": image(raw(b"rootfs/sda", kind=b"4", major=b"10")),
    "a device every system has": image(raw(b"rootfs/null", kind=b"3", major=b"1", minor=b"3")),
    "a pipe": image(raw(b"rootfs/pipe", kind=b"6")),
    "links out": image(link(b"rootfs/a", b"/etc/shadow"), link(b"rootfs/b", UP + b"etc/shadow")),
    "a link to itself": image(link(b"rootfs/a", b"a")),
    "a hard link to a link out": image(
        link(b"rootfs/a", b"/etc/shadow"), link(b"rootfs/b", b"rootfs/a", b"1")
    ),
    "set-ID and sticky bits": image(raw(b"rootfs/a", b"x", mode=b"0007777")),
    "a folder nobody may enter": image(folder(b"rootfs/d", mode=b"0000000"), raw(b"rootfs/d/a")),
    "a file below a folder that comes later": image(raw(b"rootfs/d/a"), folder(b"rootfs/d")),
    "docker's whiteouts": image(
        raw(b"rootfs/.wh..wh..opq"), raw(b"rootfs/.wh."), raw(b"rootfs/.wh..."), FILE
    ),
    "names of dots": image(raw(b"rootfs/..."), raw(b"rootfs/..a"), folder(b"rootfs/.... ")),
    "a name with a newline": image(raw(b"rootfs/a\nb")),
    "a name of terminal commands": image(raw(b"rootfs/\x1b[2J\x1b]0;x\x07")),
    "a name that is not UTF-8": image(raw(b"rootfs/\xff\xfe")),
    "a PAX name that is not UTF-8": image(pax((b"path", b"rootfs/\xc3\x28")), FILE),
    "a name with backslashes": image(raw(b"rootfs/..\\..\\" + ESCAPE)),
    "a name like a flag": image(raw(b"rootfs/-rf"), raw(b"rootfs/--help")),
    "a name of 255 bytes": image(gnu_name(b"rootfs/" + b"a" * 255), FILE),
    "a hundred folders deep": image(gnu_name(b"rootfs" + b"/d" * 100), FILE),
    "unknown PAX records": image(pax((b"comment", b"../../x"), (b"KVMRKT.x", b"\0")), FILE),
    "a comment for all": image(pax((b"comment", b"0" * 40), kind=b"g"), FILE),
    "an empty PAX header": image(pax(), FILE),
    "modes that say the kind too, as Go's tar had them": image(
        raw(b"rootfs/a", b"x", mode=b"0100644"), folder(b"rootfs/d", mode=b"0040755")
    ),
    "the manifest last": bare(ROOTFS, FILE, MANIFEST),
    "a single closing block": image(FILE, end=bytes(512)),
    "a megabyte of zeros after the end": image(FILE, end=bytes(1 << 20)),
    "no USTAR magic": image(raw(b"rootfs/a", b"x", magic=b"")),
    "a top folder": bare(folder(b"./", mode=b"0000777"), MANIFEST, ROOTFS, FILE),
}
