"""`kvmrkt config`, and what the configuration changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aci_files import manifest, write_aci
from simulated_host import STAGE1

from kvmrkt.cli import main
from kvmrkt.config import GlobalOptions
from kvmrkt.configuration import KvmSettings, load_configuration
from kvmrkt.errors import ConfigError, ImageNotFoundError
from kvmrkt.fetching import fetch_policy, open_store, stage1_sources
from kvmrkt.paths import DEFAULT_DATA
from kvmrkt.stage1.image import Stage1Choice, find_stage1
from kvmrkt.stage1.kvm.sizing import MIB, Sizing, size_machine

if TYPE_CHECKING:
    from collections.abc import Callable

    Put = Callable[..., Path]
    Config = Callable[..., tuple[int, str, str]]


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    def put(layer: str, folder: str, kind: str, **content: Any) -> Path:
        path = tmp_path / layer / folder
        path.mkdir(parents=True, exist_ok=True)
        file = path / f"{len(list(path.iterdir()))}.json"
        file.write_text(json.dumps({"rktKind": kind, "rktVersion": "v1"} | content))
        return file

    return put


@pytest.fixture
def config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Config:
    def run(*words: str) -> tuple[int, str, str]:
        layers = [f"--system-config={tmp_path}/usr", f"--local-config={tmp_path}/etc"]
        status = main.run([*layers, f"--user-config={tmp_path}/me", "config", *words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def options(tmp_path: Path) -> GlobalOptions:
    return GlobalOptions(system_config=tmp_path / "usr", local_config=tmp_path / "etc")


# -- the command -------------------------------------------------------------------------------


def test_no_configuration_at_all_is_an_empty_object(config: Config) -> None:
    assert config() == (0, "{\n}\n", "")
    assert config("--pretty-print=false") == (0, "{}\n", "")


def test_every_kind_is_printed_in_its_files_own_form(config: Config, put: Put) -> None:
    user = {"user": "u", "password": "p"}
    aws = {"accessKeyID": "k", "secretAccessKey": "s", "awsRegion": "eu-west-1"}
    put("usr", "auth.d", "auth", domains=["b.com", "a.com"], type="basic", credentials=user)
    put("usr", "auth.d", "auth", domains=["c.com"], type="oauth", credentials={"token": "t"})
    put("etc", "auth.d", "auth", domains=["d.com"], type="aws", credentials=aws)
    put("etc", "auth.d", "dockerAuth", registries=["r.com"], credentials=user)
    put("etc", "paths.d", "paths", data="/srv/pods", **{"stage1-images": "/srv/stage1"})
    put("me", "stage1.d", "stage1", name="example.com/s", version="1", location="/s.aci")
    put("me", "images.d", "images", maxEntries=5)
    put("me", "kvm.d", "kvm", maxDefaultCpus=2, accelerator="tcg")
    status, output, _ = config("--pretty-print=false")
    entries = json.loads(output)["stage0"]
    assert status == 0
    assert all(entry.pop("rktVersion") == "v1" for entry in entries)
    assert entries == [
        {"rktKind": "auth", "domains": ["a.com"], "type": "basic", "credentials": user},
        {"rktKind": "auth", "domains": ["b.com"], "type": "basic", "credentials": user},
        {"rktKind": "auth", "domains": ["c.com"], "type": "oauth", "credentials": {"token": "t"}},
        {"rktKind": "auth", "domains": ["d.com"], "type": "aws", "credentials": aws},
        {"rktKind": "dockerAuth", "registries": ["r.com"], "credentials": user},
        {"rktKind": "paths", "data": "/srv/pods", "stage1-images": "/srv/stage1"},
        {"rktKind": "stage1", "name": "example.com/s", "version": "1", "location": "/s.aci"},
        {"rktKind": "images", "maxEntries": 5},
        {"rktKind": "kvm", "accelerator": "tcg", "maxDefaultCpus": 2},
    ]
    pretty = config()[1]
    assert pretty.startswith('{\n\t"stage0": [\n\t\t{\n\t\t\t"rktVersion": "v1",\n')
    assert json.loads(pretty) == json.loads(config("--pretty-print=false")[1])


def test_what_is_printed_can_be_read_again(config: Config, put: Put, tmp_path: Path) -> None:
    put("etc", "kvm.d", "kvm", systemMemoryBytes=64 << 20, bootTimeoutSeconds=90)
    for entry in json.loads(config()[1])["stage0"]:
        put("again", "kvm.d", entry.pop("rktKind"), **entry)
    again = load_configuration(tmp_path / "again", tmp_path / "none")
    assert again.kvm == KvmSettings(system_memory_bytes=64 << 20, boot_timeout_seconds=90)


def test_a_faulty_file_is_named_with_its_key(config: Config, put: Put) -> None:
    file = put("etc", "kvm.d", "kvm", accelerator="xen")
    status, output, errors = config()
    assert (status, output) == (254, "")
    assert errors.startswith(f"config: cannot use {file}: accelerator: ")


@pytest.mark.parametrize(
    ("key", "value"),
    [("maxDefaultCpus", 0), ("systemMemoryBytes", 1), ("appMemoryBytes", 16), ("nosuch", 1),
     ("bootTimeoutSeconds", 0), ("bootTimeoutSeconds", "1m")],
)  # fmt: skip
def test_a_senseless_machine_is_refused(put: Put, tmp_path: Path, key: str, value: object) -> None:
    put("etc", "kvm.d", "kvm", **{key: value})
    with pytest.raises(ConfigError, match=key):
        load_configuration(tmp_path / "usr", tmp_path / "etc", folders=("kvm.d",))


# -- paths -------------------------------------------------------------------------------------


def test_the_data_directory_is_the_flags_then_the_configured_then_the_usual_one(
    put: Put, tmp_path: Path
) -> None:
    assert options(tmp_path / "elsewhere").data.root == DEFAULT_DATA
    put("usr", "paths.d", "paths", data="/srv/vendor")
    put("etc", "paths.d", "paths", data="/srv/pods")
    assert options(tmp_path).data.root == Path("/srv/pods")
    assert options(tmp_path)._replace(dir=Path("/mine")).data.root == Path("/mine")


def test_commands_use_the_configured_data_directory(
    put: Put, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put("etc", "paths.d", "paths", data=f"{tmp_path}/data")
    layers = [f"--system-config={tmp_path}/usr", f"--local-config={tmp_path}/etc"]
    assert main.run([*layers, "status", "abc"]) == 254
    (tmp_path / "data" / "pods" / "prepared" / "abcdef12-0000-4000-8000-000000000000").mkdir(
        parents=True
    )
    assert main.run([*layers, "status", "abc"]) == 0
    assert capsys.readouterr().out == "state=prepared\n"


def test_a_faulty_path_does_not_break_what_needs_no_data(
    put: Put, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put("etc", "paths.d", "paths", data="relative")
    assert main.run([f"--local-config={tmp_path}/etc", "version"]) == 0
    assert main.run([f"--local-config={tmp_path}/etc", "list"]) == 254
    assert "data: is not an absolute path" in capsys.readouterr().err


# -- stage1 ------------------------------------------------------------------------------------


def a_stage1(path: Path, version: str) -> Path:
    annotations = [{"name": key, "value": text} for key, text in STAGE1.items()]
    labels = [{"name": "version", "value": version}]
    path.parent.mkdir(parents=True, exist_ok=True)
    document = manifest(name="example.com/stage1", app=None, annotations=annotations, labels=labels)
    return write_aci(path, document=document)


@pytest.fixture
def default_version(host: Any, tmp_path: Path) -> Callable[[], str | None]:
    """The version of the stage1 image that is used when no flag names one."""

    def find() -> str | None:
        own = options(tmp_path)._replace(dir=tmp_path / "data")
        with open_store(own) as store:
            policy = fetch_policy(own, "new", report=print)
            image = find_stage1(store, Stage1Choice("default"), policy, stage1_sources(own))
        return next(label.value for label in image.manifest.labels if label.name == "version")

    return find


def test_the_folder_of_stage1_images_is_configurable(
    put: Put, tmp_path: Path, default_version: Callable[[], str]
) -> None:
    a_stage1(tmp_path / "usr" / "stage1-images" / "stage1-kvm.aci", "usual")
    assert default_version() == "usual"
    put("etc", "paths.d", "paths", **{"stage1-images": f"{tmp_path}/mine"})
    a_stage1(tmp_path / "mine" / "stage1-kvm.aci", "mine")
    assert default_version() == "mine"


def test_the_default_stage1_is_the_configured_one_in_the_store_else_from_its_location(
    put: Put, tmp_path: Path, default_version: Callable[[], str]
) -> None:
    folder = tmp_path / "usr" / "stage1-images"
    a_stage1(folder / "stage1-kvm.aci", "1")
    assert default_version() == "1"  # in the store from now on
    other = a_stage1(folder / "other.aci", "2")
    file = put("etc", "stage1.d", "stage1", name="example.com/stage1", version="2")
    with pytest.raises(ImageNotFoundError, match='configured stage1 image "example.com/stage1:2"'):
        default_version()
    file.unlink()
    file = put(
        "etc", "stage1.d", "stage1", name="example.com/stage1", version="2", location=f"{other}"
    )
    assert default_version() == "2"
    other.unlink()
    assert default_version() == "2"


# -- machines ----------------------------------------------------------------------------------


def test_machines_are_as_big_as_configured() -> None:
    settings = KvmSettings(
        system_memory_bytes=100 * MIB, app_memory_bytes=50 * MIB, max_default_cpus=2
    )
    size = size_machine(
        [None, 10 * MIB], [None, None], host_cpus=8, emulated=False, sizing=Sizing.of(settings)
    )
    assert (size.memory_bytes, size.cpus) == (160 * MIB, 2)
    assert Sizing.of(KvmSettings()) == Sizing()
