"""Image manifests that try something, each named by what it tries."""

from __future__ import annotations

import json
from typing import Any

from aci_files import manifest
from raw_tar import image


def _text(**changes: Any) -> bytes:
    return json.dumps(manifest(**changes)).encode()


def _app(**fields: Any) -> bytes:
    return _text(app={"exec": ["/a"], "user": "0", "group": "0"} | fields)


_DEEP = b"[" * 50_000 + b"]" * 50_000
_TEXT = _text()

FAULTS = {
    "an empty manifest": (b"", "is not valid JSON"),
    "a manifest that is no JSON": (b"acKind: ImageManifest", "is not valid JSON"),
    "a manifest cut short": (_TEXT[:-10], "is not valid JSON"),
    "two manifests in one": (_TEXT * 2, "is not valid JSON"),
    "a manifest that is a list": (b"[]", "expected `object`, got `array`"),
    "a manifest that is null": (b"null", "expected `object`, got `null`"),
    "a manifest of 2 MiB": (_text(x=" " * (2 << 20)), "the limit is 1048576"),
    "a manifest of 50000 lists": (_DEEP, "expected `object`, got `array`"),
    "50000 lists in an unknown field": (_TEXT[:-1] + b', "x": ' + _DEEP + b"}", "too deep"),
    "50000 lists in an isolator": (
        _app(isolators=[{"name": "a", "value": "@"}]).replace(b'"@"', _DEEP),
        "nested too deep",
    ),
    "a manifest in UTF-16": (json.dumps(manifest()).encode("utf-16"), "not"),
    "a manifest after a byte order mark": (b"\xef\xbb\xbf" + _TEXT, "is not valid JSON"),
    "a manifest that is not UTF-8": (_TEXT.replace(b"/bin/app", b"/bin/\xff"), "UTF-8"),
    "a manifest with half a surrogate": (_TEXT.replace(b"/bin/app", b"\\ud800"), "JSON"),
    "a manifest with a NaN": (_TEXT.replace(b'"1.0"', b"NaN"), "is not valid JSON"),
    "a pod's manifest": (_text(acKind="PodManifest"), "acKind: "),
    "no acKind": (_text(acKind=None), "acKind: is required"),
    "acVersion of another world": (_text(acVersion="1.0.0"), "acVersion: "),
    "acVersion that is a number": (_text(acVersion=1), "acVersion: "),
    "no name": (_text(name=None), "name: is required"),
    "a name that is a path": (_text(name="../../../etc/cron.d/x"), "name: "),
    "an absolute name": (_text(name="/etc/cron.d/x"), "name: "),
    "a name with dot dot inside": (_text(name="a/../b"), "name: "),
    "a name of terminal commands": (_text(name="a\x1b[2Jb"), "name: "),
    "a name of other letters": (_text(name="ехаmple.com/app"), "name: "),
    "a label called name": (_text(labels=[{"name": "name", "value": "b"}]), "labels[0].name: "),
    "a label twice": (_text(labels=[{"name": "a", "value": "b"}] * 2), "labels[1].name: "),
    "a label with a NUL": (_text(labels=[{"name": "a", "value": "\0"}]), "labels[0].value: "),
    "an unknown system": (_text(labels=[{"name": "os", "value": "plan9"}]), "labels[0].value: "),
    "labels that are an object": (_text(labels={"version": "1"}), "labels: "),
    "no user": (_text(app={"exec": ["/a"], "group": "0"}), "app.user: is required"),
    "a user with a NUL": (_app(user="0\0root"), "app.user: "),
    "an argument with a NUL": (_app(exec=["/a", "b\0c"]), "app.exec[1]: "),
    "a command that is a text": (_app(exec="/bin/sh -c 'x'"), "app.exec: "),
    "a working directory that climbs": (_app(workingDirectory="/a/../.."), "workingDirectory: "),
    "a variable's name with a newline": (
        _app(environment=[{"name": "A\nB", "value": ""}]),
        "app.environment[0].name: ",
    ),
    "a mount point that climbs": (
        _app(mountPoints=[{"name": "a", "path": "/../../etc"}]),
        "app.mountPoints[0].path: ",
    ),
    "a negative group": (_app(supplementaryGIDs=[-1]), "app.supplementaryGIDs[0]: "),
    "a group of 400 digits": (
        _app(supplementaryGIDs=[0]).replace(b"[0]", b"[" + b"9" * 400 + b"]"),
        "",
    ),
    "port 70000": (_app(ports=[{"name": "a", "protocol": "tcp", "port": 70000}]), "ports[0].port"),
    "a port of 1e400": (
        _app(ports=[{"name": "a", "protocol": "tcp", "port": 0}]).replace(b": 0}", b": 1e400}"),
        "",
    ),
    "ten billion ports": (
        _app(ports=[{"name": "a", "protocol": "tcp", "port": 1, "count": 10**10}]),
        "app.ports[0].count: ",
    ),
    "an event nobody raises": (
        _app(eventHandlers=[{"name": "on-host", "exec": ["/a"]}]),
        "app.eventHandlers[0].name: ",
    ),
    "a dependency that is a path": (
        _text(dependencies=[{"imageName": "../b"}]),
        "dependencies[0].imageName: ",
    ),
    "a dependency with a weak hash": (
        _text(dependencies=[{"imageName": "b", "imageID": "md5-" + "0" * 32}]),
        "dependencies[0].imageID: ",
    ),
    "a whitelist that climbs": (_text(pathWhitelist=["/a/../../b"]), "pathWhitelist[0]: "),
    "a whitelist that is relative": (_text(pathWhitelist=["a"]), "pathWhitelist[0]: "),
    "an annotation twice": (
        _text(annotations=[{"name": "a", "value": "x"}] * 2),
        "annotations[1].name: ",
    ),
}

REFUSED = {name: (image(document=text), said) for name, (text, said) in FAULTS.items()}

HARMLESS = {
    "a field twice": image(document=_TEXT.replace(b'"name"', b'"name": "other", "name"', 1)),
    "our own bookkeeping's field": image(document=_text(**{"//original": "x"})),
    "unknown fields": image(document=_text(**{"__class__": "x", "x": [{}, None, 1e300]})),
    "null for absent": image(document=_app(environment=None, ports=None)),
    "a thousand labels": image(
        document=_text(labels=[{"name": f"l{n}", "value": "../" * 9} for n in range(1000)])
    ),
    "a version that is a path": image(
        document=_text(labels=[{"name": "version", "value": "../../../etc"}])
    ),
    "a value of terminal commands": image(document=_app(exec=["/a", "\x1b[2J"])),
}
