"""The kinds of configuration files: what each may hold, and which values it sets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec

from kvmrkt.images.web.aws import DEFAULT_REGION, AwsKey
from kvmrkt.images.web.credentials import DOCKER_HUB, BearerToken, Login

if TYPE_CHECKING:
    from kvmrkt.images.web.credentials import Credential

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?")
_HEADER_WORD = re.compile(r"[\x21-\x7e]+")
_LOCATION_SCHEMES = ("docker", "file", "http", "https")
_FIELD = re.compile(r"(?P<reason>.*?)(?: - at `\$\.?(?P<path>.*)`)?", re.DOTALL)

_T = TypeVar("_T")
_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=2**62)]
_Names = Annotated[list[str], msgspec.Meta(min_length=1)]


class Faulty(Exception):
    """A file is wrong; the text names the key, and goes on in a ConfigError."""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rkt_kind: str = msgspec.field(name="rktKind")
    rkt_version: str = msgspec.field(name="rktVersion")


class _Auth(_File, frozen=True, forbid_unknown_fields=True, kw_only=True):
    domains: _Names
    type: Literal["basic", "oauth", "aws"]
    credentials: Any


class _DockerAuth(_File, frozen=True, forbid_unknown_fields=True, kw_only=True):
    registries: _Names
    credentials: Any


class _Paths(_File, frozen=True, forbid_unknown_fields=True):
    data: str = ""
    stage1_images: str = msgspec.field(default="", name="stage1-images")


class _Stage1(_File, frozen=True, forbid_unknown_fields=True):
    name: str = ""
    version: str = ""
    location: str = ""


class _Images(_File, frozen=True, forbid_unknown_fields=True, rename="camel"):
    max_entries: _Count | None = None
    max_path_bytes: _Count | None = None
    max_expanded_bytes: _Count | None = None
    max_download_bytes: _Count | None = None


class _Kvm(_File, frozen=True, forbid_unknown_fields=True, rename="camel"):
    accelerator: Literal["auto", "kvm", "tcg"] | None = None
    boot_timeout_seconds: Annotated[int, msgspec.Meta(ge=1, le=86400)] | None = None
    system_memory_bytes: Annotated[int, msgspec.Meta(ge=32 << 20, le=1 << 40)] | None = None
    app_memory_bytes: Annotated[int, msgspec.Meta(ge=4096, le=1 << 50)] | None = None
    max_default_cpus: Annotated[int, msgspec.Meta(ge=1, le=1024)] | None = None


class _Basic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    user: _Text
    password: _Text


class _OAuth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    token: _Text


class _Aws(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    access_key_id: _Text = msgspec.field(name="accessKeyID")
    secret_access_key: _Text = msgspec.field(name="secretAccessKey")
    region: _Text = msgspec.field(default=DEFAULT_REGION, name="awsRegion")


class Layer:
    """What one of the folders says, by kind and key."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], Any] = {}
        self._files: dict[tuple[str, str], str] = {}
        self.file = ""

    def put(self, kind: str, key: str, value: Any) -> None:
        """Note a value; Faulty if the folder has another one for the same key."""
        if (kind, key) in self.values:
            raise Faulty(f"{key}: is configured twice, also in {self._files[kind, key]}")
        self.values[kind, key] = value
        self._files[kind, key] = self.file


def required(content: dict[str, Any], key: str) -> str:
    """The text of a key that every file has."""
    value = content.get(key)
    if not isinstance(value, str) or not value:
        raise Faulty(f"{key}: is required, a text")
    return value


def _convert(content: Any, structure: type[_T], prefix: str = "") -> _T:
    """Check a file's shape; the messages name keys and never show a value."""
    try:
        return msgspec.convert(content, structure)
    except msgspec.ValidationError as error:
        match = _FIELD.fullmatch(f"{error}")
        assert match is not None
        place = ".".join(part for part in (prefix, match["path"]) if part)
        reason = match["reason"][:1].lower() + match["reason"][1:]
        raise Faulty(f"{place}: {reason}" if place else reason) from None


def _auth(content: dict[str, Any], layer: Layer) -> None:
    file = _convert(content, _Auth)
    credential = _credential(file)
    for domain in file.domains:
        layer.put("auth", _host(domain, "domains"), credential)


def _credential(file: _Auth) -> Credential:
    if file.type == "basic":
        return _login(file.credentials)
    if file.type == "oauth":
        token = _convert(file.credentials, _OAuth, "credentials").token
        return BearerToken(_header_word(token, "credentials.token"))
    aws = _convert(file.credentials, _Aws, "credentials")
    return AwsKey(
        _header_word(aws.access_key_id, "credentials.accessKeyID"),
        aws.secret_access_key,
        _header_word(aws.region, "credentials.awsRegion"),
    )


def _docker_auth(content: dict[str, Any], layer: Layer) -> None:
    file = _convert(content, _DockerAuth)
    login = _login(file.credentials)
    if len(set(file.registries)) < len(file.registries):
        raise Faulty("registries: one of them is there twice")
    names = [_host(name, "registries") for name in file.registries]
    for name in dict.fromkeys(DOCKER_HUB[0] if name in DOCKER_HUB else name for name in names):
        layer.put("dockerAuth", name, login)


def _login(content: Any) -> Login:
    basic = _convert(content, _Basic, "credentials")
    if ":" in basic.user:
        raise Faulty("credentials.user: a colon cannot be told from the one before the password")
    return Login(basic.user, basic.password)


def _paths(content: dict[str, Any], layer: Layer) -> None:
    file = _convert(content, _Paths)
    for key, text in (("data", file.data), ("stage1-images", file.stage1_images)):
        if text and (not text.startswith("/") or "\0" in text):
            raise Faulty(f"{key}: is not an absolute path")
        if text:
            layer.put("paths", key, Path(text))


def _stage1(content: dict[str, Any], layer: Layer) -> None:
    file = _convert(content, _Stage1)
    if bool(file.name) != bool(file.version):
        missing = "version" if file.name else "name"
        raise Faulty(f"{missing}: is required, for name and version go together")
    if file.name:
        layer.put("stage1", "name", (file.name, file.version))
    if file.location:
        scheme, colon, _ = file.location.partition(":")
        if not file.location.startswith("/") and not (colon and scheme in _LOCATION_SCHEMES):
            raise Faulty(
                "location: is neither an absolute path nor a URL of " + ", ".join(_LOCATION_SCHEMES)
            )
        layer.put("stage1", "location", file.location)


def _images(content: dict[str, Any], layer: Layer) -> None:
    _put_each(_convert(content, _Images), "images", layer)


def _kvm(content: dict[str, Any], layer: Layer) -> None:
    _put_each(_convert(content, _Kvm), "kvm", layer)


def _put_each(file: _File, kind: str, layer: Layer) -> None:
    """Every key of a file stands for itself."""
    for field in msgspec.structs.fields(file):
        value = getattr(file, field.name)
        if value is not None and field.name not in _File.__struct_fields__:
            layer.put(kind, field.encode_name, value)


def _host(text: str, field: str) -> str:
    if _HOST.fullmatch(text) is None:
        raise Faulty(f'{field}: "{text}" is not a host, or a host and a port')
    return text.lower()


def _header_word(text: str, field: str) -> str:
    if _HEADER_WORD.fullmatch(text) is None:
        raise Faulty(f"{field}: holds what cannot go into a header")
    return text


PARSERS = {
    "auth.d": {"auth": _auth, "dockerAuth": _docker_auth},
    "paths.d": {"paths": _paths},
    "stage1.d": {"stage1": _stage1},
    "images.d": {"images": _images},
    "kvm.d": {"kvm": _kvm},
}
