"""What is left out of kvmrkt's own processes is there for everyone who needs it."""

from __future__ import annotations

import subprocess
import sys

import pytest


def python(program: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_start_loads_no_tls() -> None:
    program = (
        "import sys; from kvmrkt.lean_imports import own_process, without_tls\n"
        "own_process()\n"
        "with without_tls():\n"
        "    import qemu.qmp\n"
        "print('_ssl' in sys.modules, 'ssl' in sys.modules)\n"
    )
    assert python(program) == "False False\n"


def test_tls_is_there_afterwards() -> None:
    program = (
        "from kvmrkt.lean_imports import own_process, without_tls\n"
        "own_process()\n"
        "with without_tls():\n"
        "    pass\n"
        "import ssl; print(ssl.create_default_context().check_hostname)\n"
    )
    assert python(program) == "True\n"


@pytest.mark.parametrize("before", ["", "import ssl; own_process()"])
def test_a_program_that_has_its_own_use_for_tls_keeps_it(before: str) -> None:
    program = (
        "from kvmrkt.lean_imports import own_process, without_tls\n"
        f"{before}\n"
        "with without_tls():\n"
        "    import asyncio.sslproto\n"
        "print(asyncio.sslproto.ssl.SSLContext.__name__)\n"
    )
    assert python(program) == "SSLContext\n"
