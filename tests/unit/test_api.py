"""The Python interface, on the simulated engine: the same operations as the command line's."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from simulated_host import DEADLINE_SECONDS

import kvmrkt
from kvmrkt import AppRequest, Host, KvmrktError, PodRequest, PodState, RunOptions
from kvmrkt.errors import (
    AppStartError,
    EngineError,
    GuestError,
    HostError,
    PodError,
    PodNotFoundError,
    PodTimeoutError,
    UsageError,
)

if TYPE_CHECKING:
    from simulated_host import SimulatedHost


@pytest.fixture
def api(host: SimulatedHost) -> Host:
    return Host(
        host.folder / "data",
        system_config=host.folder / "usr",
        local_config=host.folder / "etc",
        insecure_options="image",
    )


def request_of(host: SimulatedHost, program: str, *arguments: str) -> PodRequest:
    image = str(host.image())
    return PodRequest(apps=(AppRequest(image=image, exec=program, arguments=arguments),))


def test_what_is_exported_can_be_imported_and_costs_nothing_before() -> None:
    assert all(getattr(kvmrkt, name) is not None for name in kvmrkt.__all__)
    assert set(kvmrkt.__all__) <= set(dir(kvmrkt))
    program = "import sys, kvmrkt; print(len([n for n in sys.modules if n.startswith('kvmrkt')]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"1"
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        kvmrkt.nosuch  # noqa: B018


def test_a_pod_runs_beside_the_program_that_started_it(host: SimulatedHost, api: Host) -> None:
    with api.run(request_of(host, "/bin/sleep")) as pod:
        assert pod.state is PodState.RUNNING
        assert pod.wait_ready()
        assert [found.uuid for found in api.pods()] == [pod.uuid]
        assert pod.exit_status is None
    assert pod.state is PodState.EXITED
    assert pod.wait() == 0
    assert pod.exit_status == 0
    assert pod.stop() is False


def test_its_status_and_its_lines_are_had(host: SimulatedHost, api: Host) -> None:
    with (host.folder / "lines").open("wb") as output:
        pod = api.run(request_of(host, "/bin/echo", "hello"), output=output)
        assert pod.wait() == 0
    assert (host.folder / "lines").read_text() == "[    0.784177] app[7]: hello\n"
    pod.remove()


def test_an_apps_status_is_the_pods(host: SimulatedHost, api: Host) -> None:
    pod = api.run(request_of(host, "/bin/exit", "7"))
    assert pod.wait() == 7
    status = api.pod(pod.uuid[:8]).status()
    assert status.state is PodState.EXITED
    assert isinstance(status.apps, tuple)
    assert (status.apps[0].name, status.apps[0].exit_code) == ("app", 7)
    assert [app.name for app in pod.manifest().apps] == ["app"]
    assert api.pod(pod.uuid).wait() == 7


def test_a_prepared_pod_waits_to_be_started(host: SimulatedHost, api: Host) -> None:
    prepared = api.prepare(request_of(host, "/bin/exit", "5"))
    assert prepared.state is PodState.PREPARED
    with pytest.raises(PodError, match="is not running: it is prepared"):
        prepared.wait()
    again = api.pod(prepared.uuid)
    again.start()
    assert again.wait() == 5
    with pytest.raises(PodError, match="is not prepared"):
        prepared.start()


def test_or_to_be_run_here(host: SimulatedHost, api: Host) -> None:
    assert api.prepare(request_of(host, "/bin/exit", "5")).run_here() == 5
    assert api.run_here(request_of(host, "/bin/exit", "6")) == 6


@pytest.mark.parametrize(
    ("program", "kind", "text"),
    [
        ("/no/such", AppStartError, "no such file"),
        ("/fails/no-accelerator", HostError, "there is no /dev/kvm"),
        ("/fails/panic", GuestError, "panicked"),
    ],
)
def test_what_ended_a_pod_is_raised_with_its_class(
    host: SimulatedHost, api: Host, program: str, kind: type[Exception], text: str
) -> None:
    pod = api.run(request_of(host, program))
    with pytest.raises(kind, match=text):
        pod.wait()
    with pytest.raises(kind, match=text):
        pod.wait()
    assert pod.state is PodState.EXITED
    assert pod.exit_status is not None


def test_an_error_keeps_its_hint_and_its_details(host: SimulatedHost, api: Host) -> None:
    with pytest.raises(GuestError) as panic:
        api.run(request_of(host, "/fails/panic")).wait()
    assert panic.value.details == "last words"
    with pytest.raises(HostError) as lacking:
        api.run(request_of(host, "/fails/no-accelerator")).wait()
    assert lacking.value.hint == "load a module"


def test_a_killed_supervisor_is_told(host: SimulatedHost, api: Host) -> None:
    pod = api.run(request_of(host, "/bin/sleep"))
    assert pod.stop(force=True)
    with pytest.raises(EngineError, match="supervisor of pod .* was killed"):
        pod.wait()
    with pytest.raises(EngineError, match="supervisor of pod .* was killed"):
        api.pod(pod.uuid).wait()
    assert pod.exit_status is None


def test_what_speaks_against_a_start_leaves_nothing(host: SimulatedHost, api: Host) -> None:
    missing = kvmrkt.Volume(name="v", kind="host", source=str(host.folder / "missing"))
    request = request_of(host, "/bin/true")
    request = PodRequest(apps=request.apps, volumes=(missing,))
    with pytest.raises(UsageError, match="cannot use the volume"):
        api.run(request)
    assert api.pods() == []
    with pytest.raises(UsageError, match="cannot be interactive"):
        api.run(request_of(host, "/bin/true"), options=RunOptions(interactive=True))
    assert api.pods() == []


def test_or_the_pod_as_it_was_prepared(host: SimulatedHost, api: Host) -> None:
    folder = host.folder / "volume"
    volume = kvmrkt.Volume(name="v", kind="host", source=str(folder))
    request = request_of(host, "/bin/true")
    pod = api.prepare(PodRequest(apps=request.apps, volumes=(volume,)))
    with pytest.raises(UsageError, match="cannot use the volume"):
        pod.start()
    assert pod.state is PodState.PREPARED
    folder.mkdir()
    pod.start()
    assert pod.wait() == 0


def test_a_program_that_ends_leaves_its_pod_running(host: SimulatedHost, api: Host) -> None:
    program = f"""
import sys
import time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import simulated_host
from pathlib import Path
from kvmrkt import Host, background
simulated_host.pretend(Path({str(host.folder)!r}))
background.PROGRAM = simulated_host.SUPERVISOR
api = Host({str(host.folder / "data")!r}, insecure_options="image")
api.pod(sys.argv[1]).start()
"""
    uuid = api.prepare(request_of(host, "/bin/sleep")).uuid
    subprocess.run([sys.executable, "-c", program, uuid], check=True)
    pod = api.pod(uuid)
    assert pod.state is PodState.RUNNING
    assert pod.stop()
    assert pod.wait() == 0


def test_fetching_and_collecting(host: SimulatedHost, api: Host) -> None:
    image_id = api.fetch(str(host.image()))
    assert image_id.startswith("sha512-")
    assert image_id[:19] in host("image", "list").output
    pod = api.run(request_of(host, "/bin/true"))
    pod.wait()
    assert api.collect_garbage() == 0
    assert pod.state is PodState.EXITED_GARBAGE
    assert api.collect_garbage(grace_seconds=0) == 1
    with pytest.raises(PodNotFoundError):
        api.pod(pod.uuid)


def test_waiting_no_longer_than_told(host: SimulatedHost, api: Host) -> None:
    pod = api.run(request_of(host, "/bin/sleep"))
    for seen in (pod, api.pod(pod.uuid)):
        with pytest.raises(PodTimeoutError, match="has not ended within 0.01 seconds"):
            seen.wait(timeout_seconds=0.01)
    pod.stop()
    assert api.pod(pod.uuid).wait(timeout_seconds=0) == 0
    assert pod.wait(timeout_seconds=DEADLINE_SECONDS) == 0


def test_what_the_apps_wrote(host: SimulatedHost, api: Host) -> None:
    app = AppRequest(image=str(host.image()), exec="/bin/echo", arguments=("hello",))
    pod = api.prepare(PodRequest(apps=(app,)))
    with pytest.raises(PodError, match="it has not run yet"):
        pod.logs()
    pod.start()
    assert [record.text for record in pod.logs(follow=True)] == ["hello"]
    assert [record.text for record in pod.logs(["app"])] == ["hello"]
    assert list(pod.logs(since_ns=time.time_ns())) == []
    with pytest.raises(PodError, match='has no app "web"'):
        pod.logs(["web"])
    pod.remove()
    with pytest.raises(PodNotFoundError):
        pod.logs()


def test_waiting_for_the_apps_to_start(host: SimulatedHost, api: Host) -> None:
    prepared = api.prepare(request_of(host, "/bin/sleep"))
    assert not prepared.wait_ready(timeout_seconds=0)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(api.pod(prepared.uuid).wait_ready, DEADLINE_SECONDS)
        prepared.start()
        assert waiting.result()
    assert prepared.wait_ready(timeout_seconds=0)
    prepared.stop()
    assert prepared.wait_ready(), "its apps had started"
    prepared.remove()
    assert not prepared.wait_ready()


@pytest.mark.parametrize("program", ["/no/such", "/fails/no-accelerator"])
def test_waiting_for_apps_that_do_not_start(host: SimulatedHost, api: Host, program: str) -> None:
    pod = api.run(request_of(host, program))
    assert not pod.wait_ready(DEADLINE_SECONDS)
    with pytest.raises(KvmrktError):
        pod.wait()


def test_waiting_for_the_apps_of_a_pod_whose_supervisor_is_killed(
    host: SimulatedHost, api: Host
) -> None:
    pod = api.run(request_of(host, "/fails/hangs"))
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(pod.wait_ready, DEADLINE_SECONDS)
        pod.stop(force=True)
        assert not waiting.result()
    with pytest.raises(KvmrktError):
        pod.wait()
