"""rkt's flags for pods and apps: what each puts into a manifest, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmrkt.cli import dns_flags
from kvmrkt.cli.app_flags import APP_FLAGS
from kvmrkt.cli.environment_flags import inherited_environment
from kvmrkt.cli.flags import flag_table
from kvmrkt.cli.grammar import sort_words
from kvmrkt.cli.pod_flags import POD_FLAGS, pod_request
from kvmrkt.cli.run_flags import RUN_FLAGS, run_options
from kvmrkt.cli.seccomp_flags import parse_seccomp
from kvmrkt.cli.volume_flags import parse_mount, parse_volume
from kvmrkt.errors import KvmrktError, UsageError
from kvmrkt.pods.request import SeccompRequest

if TYPE_CHECKING:
    from pathlib import Path

    from simulated_host import SimulatedHost

    from kvmrkt.stage1.engine import RunOptions


def prepared(host: SimulatedHost, *words: str | Path) -> Any:
    """The manifest of the pod that `prepare` makes."""
    done = host("prepare", *words)
    assert done.status == 0, done.errors
    return json.loads(host("cat-manifest", done.output.strip()).output)


def prepared_app(host: SimulatedHost, *words: str | Path, **app: Any) -> Any:
    """The one app, whole, of a pod; `app` is what its image says."""
    own = {"exec": ["/bin/app"], "user": "0", "group": "0", **app}
    return prepared(host, host.image(app=own), *words)["apps"][0]


def options(*words: str) -> RunOptions:
    sorted_words = sort_words(words, flag_table(RUN_FLAGS), {})
    flags = click.Command("run", params=list(RUN_FLAGS)).make_context("run", sorted_words.pod)
    return run_options(flags.params)


# -- apps ----------------------------------------------------------------------------------------


def test_an_apps_flags_are_in_the_manifest(host: SimulatedHost) -> None:
    app = prepared_app(
        host, "--name=other", "--exec=/bin/true", "--user=7", "--group=/etc/passwd",
        "--supplementary-gids=1,22", "--working-dir=/srv", "--readonly-rootfs", "false",
        "--annotation=example.com/a=1=2", "--user-annotation=Any Name=x", "--user-label=l=",
        "--stdin=null", "--stdout=log", "--stderr=null", "--", "-v",
    )  # fmt: skip
    assert app["name"] == "other"
    assert "readOnlyRootFS" not in app
    assert app["app"] == {
        "exec": ["/bin/true", "-v"],
        "user": "7",
        "group": "/etc/passwd",
        "supplementaryGIDs": [1, 22],
        "workingDirectory": "/srv",
        "userAnnotations": {"Any Name": "x"},
        "userLabels": {"l": ""},
    }
    assert {item["name"]: item["value"] for item in app["annotations"]} == {
        "example.com/a": "1=2",
        "coreos.com/rkt/stage2/stdin": "null",
        "coreos.com/rkt/stage2/stdout": "log",
        "coreos.com/rkt/stage2/stderr": "null",
    }


def test_flags_that_are_not_given_leave_the_images_own(host: SimulatedHost) -> None:
    own = {
        "user": "3", "group": "4", "supplementaryGIDs": [5], "workingDirectory": "/w",
        "userAnnotations": {"a": "b"}, "userLabels": {"c": "d"},
        "isolators": [{"name": "os/linux/cpu-shares", "value": 100}],
    }  # fmt: skip
    app = prepared_app(host, **own)["app"]
    assert app == {"exec": ["/bin/app"], **own}


def test_isolators_take_the_place_of_the_images(host: SimulatedHost) -> None:
    images = {
        "resource/memory": {"limit": "1G"},
        "resource/cpu": {"limit": "4"},
        "os/linux/cpu-shares": 5,
        "os/linux/oom-score-adj": 6,
        "os/linux/capabilities-retain-set": {"set": ["CAP_KILL"]},
        "os/linux/seccomp-retain-set": {"set": ["@appc.io/all"]},
        "os/linux/no-new-privileges": True,
    }
    app = prepared_app(
        host, "--memory=128M", "--cpu", "500m", "--cpu-shares=2048", "--oom-score-adj=-10",
        "--caps-remove=CAP_MKNOD,cap_chown", "--seccomp",
        "mode=remove,errno=ENOTSUP,socket,@rkt/default-blacklist",
        isolators=[{"name": name, "value": value} for name, value in images.items()],
    )  # fmt: skip
    assert {item["name"]: item["value"] for item in app["app"]["isolators"]} == {
        "os/linux/no-new-privileges": True,
        "resource/memory": {"request": "128M", "limit": "128M"},
        "resource/cpu": {"request": "500m", "limit": "500m"},
        "os/linux/cpu-shares": 2048,
        "os/linux/oom-score-adj": -10,
        "os/linux/capabilities-remove-set": {"set": ["CAP_MKNOD", "CAP_CHOWN"]},
        "os/linux/seccomp-remove-set": {
            "set": ["socket", "@rkt/default-blacklist"],
            "errno": "ENOTSUP",
        },
    }


def test_isolators_that_nothing_applies_are_named(host: SimulatedHost) -> None:
    isolators = [
        {"name": "os/linux/selinux-context", "value": {}},
        {"name": "os/linux/seccomp-retain-set", "value": {"set": ["read"]}},
    ]
    own = {"exec": ["/bin/app"], "user": "0", "group": "0", "isolators": isolators}
    done = host("prepare", host.image(app=own))
    assert 'app "app": the isolator os/linux/selinux-context is not applied' in done.errors
    assert "seccomp" not in done.errors


def test_deprecated_flags_work_and_say_so(host: SimulatedHost) -> None:
    done = host("prepare", "--store-only", host.image(), "--cap-retain=CAP_KILL")
    assert done.status == 0
    assert done.errors.splitlines()[:2] == [
        "Flag --cap-retain has been deprecated, use --caps-retain instead",
        "Flag --store-only has been deprecated, please use --pull-policy=never",
    ]


def test_a_later_flag_wins_over_an_earlier_one(host: SimulatedHost) -> None:
    app = prepared_app(host, "--user=1", "--user=2", "--memory=1G", "--memory=2G")
    assert app["app"]["user"] == "2"
    assert app["app"]["isolators"][0]["value"]["limit"] == "2G"


def test_an_image_without_an_app_section_needs_a_program(host: SimulatedHost) -> None:
    image = host.image(app=None)
    assert "no --exec argument is provided" in host("prepare", image).errors
    app = prepared(host, image, "--exec=/bin/true")["apps"][0]
    assert app["app"] == {"exec": ["/bin/true"], "user": "0", "group": "0"}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--exec=/a", "--exec=/b"], "--exec specified multiple times for the same image"),
        (["--signature=a", "--signature=b"], "--signature specified multiple times"),
        (["--name=Bad"], 'invalid app name "Bad"'),
        (["--supplementary-gids=1,x"], "--supplementary-gids must be integers"),
        (["--supplementary-gids="], "--supplementary-gids must be integers"),
        (["--supplementary-gids=4294967295"], "is not a group ID"),
        (["--readonly-rootfs=perhaps"], '"perhaps" is neither true nor false'),
        (["--caps-retain=CAP_X"], '"CAP_X" is not a Linux capability'),
        (["--caps-retain=CAP_KILL", "--caps-remove=CAP_KILL"],
         "cannot use both --caps-retain and --caps-remove on the same image"),
        (["--memory=16m"], "memory limit of 1 bytes too low"),
        (["--memory=lots"], "'lots' is not a quantity"),
        (["--cpu=0"], "CPU limit of 0 is too small"),
        (["--cpu-shares=1"], "os/linux/cpu-shares must be between 2 and 262144, got 1"),
        (["--cpu-shares=1_0"], 'invalid argument "1_0" for --cpu-shares=1_0'),
        (["--cpu-shares=" + "1" * 5000], "is not a whole number"),
        (["--supplementary-gids=" + "1" * 5000], "--supplementary-gids must be integers"),
        (["--oom-score-adj=1001"], "must be between -1000 and 1000, got 1001"),
        (["--oom-score-adj=+-1"], "is not a whole number"),
        (["--environment=X"], 'invalid format of --environment flag "X"'),
        (["--environment==x"], 'invalid format of --environment flag "=x"'),
        (["--annotation=A=b"], '"A" is not an AC Identifier'),
        (["--user-label=x"], 'invalid format of --user-label flag "x"'),
        (["--stdin=log"], "should be one of null, stream, tty"),
        (["--mount=volume=zz,target=/x"], 'dangling mount point "/x": volume "zz" not found'),
        (["--working-dir=x"], "workingDirectory"),
        (["--seccomp=read"], "invalid seccomp mode command-line override"),
        (["--seccomp=mode=allow,read"], "invalid seccomp mode command-line override"),
        (["--seccomp=mode=retain,level=2,read"], "invalid seccomp command-line override"),
        (["--seccomp=mode=retain,mode=remove,read"], "invalid seccomp command-line override"),
        (["--seccomp=mode=retain"], "no system call is named"),
        (["--seccomp=mode=retain,@rkt/x"], 'there is no group "@rkt/x"'),
        (["--seccomp=mode=retain,Read"], '"Read" is not the name of a system call'),
        (["--seccomp=mode=retain,errno=EVERY,read"], '"EVERY" is not the name of an error'),
    ],
)  # fmt: skip
def test_an_apps_faulty_flags_are_refused(
    host: SimulatedHost, words: list[str], error: str
) -> None:
    done = host("prepare", host.image(), *words)
    assert done.status == 254
    assert error in done.errors
    assert host.pods() == {}


def test_a_faulty_flag_is_refused_before_an_image_is_fetched(host: SimulatedHost) -> None:
    for word in ("--caps-retain=CAP_X", "--memory=16m", "--mount=volume=v,target=/x"):
        done = host("prepare", "example.invalid/no-such-image", word)
        assert "example.invalid" not in done.errors


def test_streams_need_attach_which_is_not_there_yet(kvm_translation: Any) -> None:
    spec = kvm_translation({"stdout": "null", "stderr": "log"})
    assert (spec.stdin, spec.stdout, spec.stderr) == ("null", "null", "log")
    with pytest.raises(Exception, match="cannot attach to an app yet"):
        kvm_translation({"stdin": "stream"})


@pytest.fixture
def kvm_translation() -> Any:
    """The kvm engine's AppSpec of an app with annotations for its streams."""
    from kvmrkt.appc.image_manifest import Annotation, App
    from kvmrkt.appc.pod_manifest import PodManifest, RuntimeApp, RuntimeImage
    from kvmrkt.stage1.kvm.translate import translate

    def translated(modes: dict[str, str]) -> Any:
        app = RuntimeApp(
            name="a",
            image=RuntimeImage(id="sha512-" + "a" * 128),
            app=App(user="0", group="0", exec=["/a"]),
            annotations=[
                Annotation(f"coreos.com/rkt/stage2/{stream}", mode)
                for stream, mode in modes.items()
            ],
        )
        return translate(PodManifest(apps=[app]), "uuid").spec.apps[0]

    return translated


# -- environment ---------------------------------------------------------------------------------


def test_variables_come_from_the_host_the_image_a_file_flags_and_the_app_in_that_order(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("V1", "V2", "V3", "V4", "V5"):
        monkeypatch.setenv(name, "host")
    monkeypatch.setenv("BASH_FUNC_x%%", "() { :; }")
    monkeypatch.setenv("RAW", b"\xff".decode(errors="surrogateescape"))
    file = tmp_path / "env"
    file.write_bytes(
        b"# a comment\r\n; one more\n\n  \nV3=file\r\nV4=file\nV5=file\nSPACE= a = b \n"
    )
    image = host.image(app={
        "exec": ["/bin/env"], "user": "0", "group": "0",
        "environment": [{"name": f"V{number}", "value": "image"} for number in (2, 3, 4, 5)],
    })  # fmt: skip
    done = host.run(
        "--inherit-env", f"--set-env-file={file}", "--set-env=V4=flag", "--set-env", "V5=flag",
        image, "--environment=V5=first", "--environment=V5=app",
    )  # fmt: skip
    lines = [line.partition(": ")[2] for line in done.output.splitlines()]
    assert {line for line in lines if line.startswith("V")} >= {
        "V1=host", "V2=image", "V3=file", "V4=flag", "V5=app",
    }  # fmt: skip
    assert "SPACE= a = b " in lines
    assert not any(line.startswith(("BASH_FUNC", "RAW")) for line in lines)
    assert 'the variable "BASH_FUNC_x%%" is not inherited' in done.errors
    assert 'the variable "RAW" is not inherited' in done.errors


def test_without_inherit_env_nothing_of_the_host_reaches_an_app(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "x")
    assert "environment" not in prepared_app(host)["app"]
    with click.Context(click.Command("run")):
        assert ("SECRET", "x") in inherited_environment()


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"A", "must be specified as name=value"),
        (b"=a", "must be specified as name=value"),
        (b"A=1\nA=2", 'environment variable "A" already set'),
        (b"A=\xff", "not UTF-8 at byte 2"),
        (b"A=" + b"x" * (1 << 20), "larger than 1048576 bytes"),
        (b"A B=1", "is not a variable's name"),
        (b"A=\0", "NUL"),
    ],
)
def test_a_faulty_file_of_variables_is_refused(
    host: SimulatedHost, tmp_path: Path, content: bytes, error: str
) -> None:
    file = tmp_path / "env"
    file.write_bytes(content)
    done = host("prepare", f"--set-env-file={file}", host.image())
    assert done.status == 254
    assert error in done.errors


# -- pods ----------------------------------------------------------------------------------------


def test_volumes_and_mounts_are_in_the_manifest(host: SimulatedHost) -> None:
    image = host.image()
    pod = prepared(
        host, "--volume=a,kind=host,source=/srv,readOnly=true,recursive=false",
        "--volume", "b,kind=empty,mode=1777,uid=1,gid=2", "--mount=volume=a,target=/one",
        "--mount=volume=a,target=//both/", image, "--name=x", "--mount=volume=b,target=/both",
        image, "--name=y",
    )  # fmt: skip
    assert pod["volumes"] == [
        {"name": "a", "kind": "host", "source": "/srv", "readOnly": True, "recursive": False},
        {"name": "b", "kind": "empty", "mode": "1777", "uid": 1, "gid": 2},
    ]
    assert [app["mounts"] for app in pod["apps"]] == [
        [{"volume": "b", "path": "/both"}, {"volume": "a", "path": "/one"}],
        [{"volume": "a", "path": "/both"}, {"volume": "a", "path": "/one"}],
    ]


def test_ports_are_in_the_manifest(host: SimulatedHost) -> None:
    image = host.image(app={
        "exec": ["/bin/app"], "user": "0", "group": "0",
        "ports": [{"name": name, "protocol": "tcp", "port": 80} for name in ("http", "other")],
    })  # fmt: skip
    flags = ["--port=http:8080", "--port=other:127.0.0.1:81", "--port=other:[::1]:82"]
    assert prepared(host, *flags, image)["ports"] == [
        {"name": "http", "hostPort": 8080},
        {"name": "other", "hostPort": 81, "hostIP": "127.0.0.1"},
        {"name": "other", "hostPort": 82, "hostIP": "::1"},
    ]
    for port, error in {
        "--port=no:80": 'port name "no" could not be found in any apps',
        "--port=other:8080": "port tcp-0.0.0.0:8080 already mapped to pod port 80",
    }.items():
        done = host("prepare", "--port=http:8080", port, image)
        assert error in done.errors
    done = host("prepare", "--port=http:80", image, "--name=a", image, "--name=b")
    assert 'port name "http" defined multiple apps' in done.errors


def test_docker_images_say_which_of_their_implicit_volumes_begin_with_their_content(
    host: SimulatedHost,
) -> None:
    app = {
        "exec": ["/bin/app"], "user": "0", "group": "0",
        "mountPoints": [{"name": "data", "path": "/data"}, {"name": "v", "path": "/v"}],
    }  # fmt: skip
    docker = [{"name": "appc.io/docker/repository", "value": "x"}]
    words = ("--volume=v,kind=empty", host.image(app=app, annotations=docker), "--name=web")
    pod = prepared(host, *words)
    assert {"name": "kvmrkt.io/pod/initialized-volumes", "value": "web-data"} in pod["annotations"]
    plain = prepared(host, *words[:1], host.image(app=app), "--name=web")
    assert [item["name"] for item in plain["annotations"]] == ["coreos.com/rkt/stage1/mutable"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--set-env=A"], "must be specified as key=value"),
        (["--set-env=A=1", "--set-env=A=2"], 'key "A" already set'),
        (["--set-env-file=/no/such"], "No such file or directory"),
        (["--volume=a,kind=empty", "--volume=a,kind=empty"], 'the volume "a" is given twice'),
        (["--volume=a,kind=disk"],
         'unrecognized volume kind: should be one of "empty", "host"'),
        (["--volume=a,kind=empty,x=y"], 'unknown volume parameter "x"'),
        (["--volume=a,kind=empty,kind=host"], "label kind with multiple values"),
        (["--mount=volume=zz,target=/x"], 'dangling mount point "/x": volume "zz" not found'),
        (["--mount=volume=a,target=/x,x=y"], 'unknown mount parameter "x"'),
        (["--port=a"], '"a" is not in name:[ip:]port format'),
        (["--port=A:80"], '"A" is not a valid port name'),
        (["--port=a:0"], '"0" is not a valid port number'),
        (["--port=a:" + "1" * 5000], "is not a valid port number"),
        (["--volume=a,kind=empty,uid=" + "1" * 5000], "invalid argument"),
        (["--port=a:70000"], '"70000" is not a valid port number'),
        (["--port=a:1.2.3:80"], '"1.2.3" is not a valid IP'),
        (["--private-users"], "cannot use both overlay and user namespace"),
        (["--private-users", "--no-overlay"], "--private-users is not supported by the kvm stage1"),
        (["--store-only", "--no-store"], "both --store-only and --no-store specified"),
        (["--stage1-path=a", "--stage1-hash=b"], "mutually exclusive"),
        (["--bogus"], "unknown flag: --bogus"),
        (["--pull-policy=often"], "should be one of never, new, update"),
    ],
)  # fmt: skip
def test_a_pods_faulty_flags_are_refused(host: SimulatedHost, words: list[str], error: str) -> None:
    done = host("prepare", *words, host.image())
    assert done.status == 254
    assert error in done.errors
    assert host.pods() == {}


def test_no_overlay_changes_nothing(host: SimulatedHost) -> None:
    assert host.run("--no-overlay", host.image()).status == 0


def test_a_query_strings_escapes_are_undone_and_a_plus_is_itself() -> None:
    assert parse_volume("a,kind=host,source=/a%2Cb%20c++").source == "/a,b c++"
    assert parse_mount("volume=a,target=/x%2cy/").path == "/x,y"
    for text in ("a,kind=host,source=/%zz", "a,kind=host,source=/%f", "a,kind=host,source=/%ff"):
        with pytest.raises(UsageError, match="invalid"):
            parse_volume(text)


@given(st.text(alphabet="ab,=%2C/.kindhostemptysource0\0é", max_size=60))
def test_any_text_is_a_volume_or_refused(text: str) -> None:
    for parse in (parse_volume, parse_mount, parse_seccomp):
        try:
            parse(text)
        except UsageError as error:
            assert text in error.message


FLAGS = sorted(flag_table([*POD_FLAGS, *APP_FLAGS]))
VALUES = st.sampled_from(["", "1", "a=b", "v,kind=empty", "volume=v,target=/v", "x:1", "é", "\0"])


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["image", "--", "---"]),
            st.sampled_from(FLAGS),
            st.builds("{}={}".format, st.sampled_from(FLAGS), VALUES),
        )
    )
)
def test_any_command_line_is_a_request_or_an_error_of_ours(words: list[str]) -> None:
    try:
        sorted_words = sort_words(words, flag_table(POD_FLAGS), flag_table(APP_FLAGS))
        context = click.Command("prepare", params=list(POD_FLAGS)).make_context(
            "prepare", sorted_words.pod
        )
        with context:
            request = pod_request(sorted_words, context.params)
    except (KvmrktError, click.ClickException):
        return
    assert request.app_count > 0


def test_seccomp_words_may_stand_in_any_order() -> None:
    assert parse_seccomp("read,mode=retain,@docker/default-whitelist,errno=EPERM") == (
        SeccompRequest("retain", ("read", "@docker/default-whitelist"), "EPERM")
    )


# -- a whole manifest ----------------------------------------------------------------------------


def test_a_manifest_of_a_pod_makes_the_same_pod_again(host: SimulatedHost, tmp_path: Path) -> None:
    first = prepared(
        host, "--volume=v,kind=empty", host.image(), "--mount=volume=v,target=/v", "--memory=1G"
    )
    first["somebody-elses"] = 1
    file = tmp_path / "pod.json"
    file.write_text(json.dumps(first))
    assert prepared(host, f"--pod-manifest={file}") == first
    assert host.run(f"--pod-manifest={file}").status == 0


def test_a_manifest_may_leave_much_to_the_images(host: SimulatedHost, tmp_path: Path) -> None:
    app = {
        "exec": ["/bin/exit", "3"], "user": "0", "group": "0",
        "mountPoints": [{"name": "data", "path": "/data"}],
    }  # fmt: skip
    image = prepared(host, host.image(app=app))["apps"][0]["image"]["id"]
    own = {"name": "own", "kind": "empty"}
    file = tmp_path / "pod.json"
    file.write_text(json.dumps({
        "acVersion": "1.30.0", "acKind": "PodManifest",
        "apps": [
            {"name": "a", "image": {"id": image[:71]}},
            {"name": "b", "image": {"id": image},
             "mounts": [{"volume": "own", "path": "/data", "appVolume": own}]},
        ],
    }))  # fmt: skip
    pod = prepared(host, f"--pod-manifest={file}")
    assert [app["image"]["id"] for app in pod["apps"]] == [image, image]
    assert [app["mounts"] for app in pod["apps"]] == [
        [{"volume": "a-data", "path": "/data"}], [{"volume": "own", "path": "/data"}],
    ]  # fmt: skip
    assert [volume["name"] for volume in pod["volumes"]] == ["a-data", "own"]
    assert pod["apps"][0]["app"] == app
    assert host.run(f"--pod-manifest={file}").status == 3


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, "error reading pod manifest"),
        ("{", "error unmarshaling pod manifest"),
        ('{"acVersion":"1.0.0","acKind":"PodManifest","apps":[]}',
         "pod must contain at least one application"),
        ('{"acVersion":"1.0.0","acKind":"PodManifest","apps":[{"name":"a","image":{}}]}', "id"),
        ('{"acVersion":"0.8.11","acKind":"PodManifest","apps":'
         f'[{{"name":"a","image":{{"id":"sha512-{"b" * 64}"}}}}]}}', "no image IDs found"),
        (" " * ((1 << 22) + 1), "is larger than 4194304 bytes"),
    ],
)  # fmt: skip
def test_a_faulty_manifest_is_refused(
    host: SimulatedHost, tmp_path: Path, content: str | None, error: str
) -> None:
    file = tmp_path / "pod.json"
    if content is not None:
        file.write_text(content)
    done = host("prepare", f"--pod-manifest={file}")
    assert done.status == 254
    assert error in done.errors
    assert host.pods() == {}


@pytest.mark.parametrize(
    "flag",
    [
        "image", "--volume=a,kind=empty", "--mount=volume=a,target=/x", "--port=a:80",
        "--inherit-env", "--set-env=A=b", "--set-env-file=/dev/null", "--pull-policy=never",
        "--pull-policy=update", "--store-only", "--no-store",
    ],
)  # fmt: skip
def test_a_manifest_excludes_what_it_says_itself(host: SimulatedHost, flag: str) -> None:
    done = host("prepare", "--pod-manifest=/dev/null", flag)
    assert "prepare: conflicting flags set with --pod-manifest (see --help)" in done.errors


def test_an_interactive_pod_has_one_app(host: SimulatedHost, tmp_path: Path) -> None:
    image = host.image()
    pod = prepared(host, image, "--name=a", image, "--name=b")
    file = tmp_path / "pod.json"
    file.write_text(json.dumps(pod))
    for words in ([image, image], [f"--pod-manifest={file}"]):
        done = host.run("--interactive", *words)
        assert "run: interactive option only supports one image" in done.errors


def test_a_pod_needs_an_image_or_a_manifest(host: SimulatedHost) -> None:
    done = host.run()
    assert done.errors == "run: must provide at least one image or specify the pod manifest\n"


# -- how it is run -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--net=none,none"], 'found duplicate netname "none"'),
        (["--net=none", "--net=none"], 'found duplicate netname "none"'),
        (["--net=a:b:c"], 'network "a" provided with invalid arguments: [b c]'),
        (["--net="], "netname must not be empty"),
        (["--net=none,"], "netname must not be empty"),
        (["--net=host:x=1"], 'arguments are not supported by special netname "host"'),
        (["--net=x:IP=1.2.3.4,y"], "networks not found: x, y"),
        (["--net=host"], "flavor kvm requires private network configuration (try --net)"),
        (["--net=default:DNS=1"], 'network "default" takes no argument DNS'),
        (["--net=default:IP"], 'the argument "IP" is not in NAME=VALUE form'),
        (["--net=none", "--port=a:80"], "--port flag does not work with 'none' networking"),
        (["--net=host", "--port=a:80"], "--port flag does not work with 'host' networking"),
        (["--net=none", "--mds-register"], "--mds-register flag does not work with --net=none."),
        (["--mds-register"], "this version of kvmrkt has no metadata service"),
        (["--net=none", "--ipc=parent"], "--ipc=parent is not supported by the kvm stage1"),
        (["--net=none", "--ipc=mine"], 'invalid argument "mine" for --ipc=mine'),
        (["--net=none", "--hostname=-x"], 'invalid --hostname "-x"'),
        (["--net=none", "--dns=1.2"], "Invalid IP passed to --dns: 1.2"),
    ],
)
def test_what_a_pod_cannot_be_run_with_is_refused(
    host: SimulatedHost, words: list[str], error: str
) -> None:
    done = host("run", *words, host.image())
    assert done.status == 254
    assert error in done.errors
    assert host.pods() == {}


def test_flags_that_ask_for_what_is_so_anyway_are_taken(host: SimulatedHost) -> None:
    for ipc in ("auto", "private", ""):
        assert host.run(f"--ipc={ipc}", "--mds-register=false", host.image()).status == 0


def test_a_commands_flags_may_stand_before_its_name(host: SimulatedHost) -> None:
    done = host("--net=none", "--hostname", "web", "run", host.image(), "--exec=/bin/hostname")
    assert done.status == 0
    assert done.output.endswith(": web\n")


def test_run_prepared_has_the_same_flags(host: SimulatedHost) -> None:
    uuid = host("prepare", host.image(), "--exec=/bin/hostname").output.strip()
    assert "networks not found: x" in host("run-prepared", "--net=x", uuid).errors
    done = host("run-p", "--net=none", "--hostname=web", "--dns=1.1.1.1", uuid)
    assert done.output.endswith(": web\n")


def test_name_servers_make_a_resolv_conf_in_rkts_order() -> None:
    text = options(
        "--dns=1.1.1.1,::1", "--dns", "8.8.8.8", "--dns-search=a.example", "--dns-search=b.example",
        "--dns-opt=debug", "--dns-opt=ndots:2", "--dns-domain=c.example",
    ).resolv_conf  # fmt: skip
    assert text is not None
    assert text.splitlines()[2:] == [
        "search a.example b.example",
        "nameserver 1.1.1.1",
        "nameserver ::1",
        "nameserver 8.8.8.8",
        "options debug ndots:2",
        "domain c.example",
    ]


def test_the_hosts_own_files_can_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_flags, "HOST_ETC", tmp_path)
    with pytest.raises(UsageError, match="cannot read the host's file for --dns=host"):
        options("--dns=host")
    (tmp_path / "resolv.conf").write_text("nameserver 9.9.9.9\n")
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    both = options("--dns=host", "--hosts-entry=host")
    assert both.resolv_conf == "nameserver 9.9.9.9\n"
    assert both.hosts == "127.0.0.1 localhost\n"
    (tmp_path / "hosts").write_text("x" * 70_000)
    with pytest.raises(UsageError, match="too large"):
        options("--hosts-entry=host")


def test_without_flags_the_images_files_stay() -> None:
    assert options().network_dns
    assert not options("--dns=none").network_dns
    assert (options().resolv_conf, options().hosts, options().hosts_entries) == (None, None, ())


def test_hosts_entries_are_kept_in_order() -> None:
    entries = options("--hosts-entry=10.0.0.1=a,::2=b", "--hosts-entry=10.0.0.1=c").hosts_entries
    assert entries == (("10.0.0.1", ("a",)), ("::2", ("b",)), ("10.0.0.1", ("c",)))

    from kvmrkt.pods.dns import hosts

    assert hosts(entries, "me").splitlines() == [
        "127.0.0.1\tlocalhost", "::1\tlocalhost", "127.0.1.1\tme", "10.0.0.1\ta c", "::2\tb",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--dns=host", "--dns=1.1.1.1"],
         "no other --dns options allowed when --dns=host is passed"),
        (["--dns=none", "--dns-opt=debug"],
         "Cannot call --dns-opt, --dns-search, or --dns-domain with --dns=none"),
        (["--dns=host,1.1.1.1"], "Invalid IP passed to --dns: host"),
        (["--dns-search=a\nnameserver 6.6.6.6"], "invalid word"),
        (["--dns-domain=a\tb"], "invalid word"),
        (["--hosts-entry=host", "--hosts-entry=1.1.1.1=a"],
         "cannot pass --hosts-entry=host with multiple hosts-entries"),
        (["--hosts-entry=1.1.1.1"], "Did not understand --hosts-entry 1.1.1.1"),
        (["--hosts-entry=1.1.1.1=a b"], "Did not understand --hosts-entry"),
        (["--hosts-entry=1.1.1=a"], "Invalid IP passed to --hosts-entry: 1.1.1"),
        (["--hostname=" + "x" * 65], "invalid --hostname"),
        (["--hostname=a b"], "invalid --hostname"),
    ],
)  # fmt: skip
def test_faulty_names_are_refused_in_rkts_words(words: list[str], error: str) -> None:
    with pytest.raises(UsageError) as caught:
        options(*words)
    assert error in caught.value.message


# -- networks --------------------------------------------------------------------------------------


def test_networks_are_kept_with_their_arguments() -> None:
    assert options().networks == (("default", ""),)
    assert options("--net").networks == (("default", ""),)
    assert options("--net=a:IP=1.2.3.4;X=y", "--net=b").networks == (
        ("a", "IP=1.2.3.4;X=y"),
        ("b", ""),
    )
