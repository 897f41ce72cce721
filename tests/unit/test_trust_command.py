"""`kvmrkt trust`: keys from files, from the web and by discovery; what it prints and asks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
from gpg_keys import Gpg, gpg_home
from web_server import Answer, Server, direct, redirect, serving, trust

from kvmrkt.cli.main import run
from kvmrkt.config import InsecureOptions
from kvmrkt.errors import ImageError, SignatureError
from kvmrkt.images.policy import FetchPolicy
from kvmrkt.images.signatures.openpgp import read_keys
from kvmrkt.images.signatures.trust import Review, add_keys, discover_and_add, spaced_fingerprint
from kvmrkt.images.signatures.trustedkeys import TrustedKeys
from kvmrkt.images.web import discovery

PREFIX = "example.com/app"


@pytest.fixture(scope="module")
def gpg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpg]:
    with gpg_home(tmp_path_factory.mktemp("k")) as made:
        key = made.new_key("one@example.com")
        made.add_subkey(key, "ed25519", "sign")
        made.new_key("two@example.com")
        yield made


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    trust(monkeypatch, tmp_path)
    with serving() as made:
        yield made


class Host:
    """A host's configuration folders, and the command run upon them."""

    def __init__(self, top: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.local, self.system = top / "etc", top / "usr"
        self.flags = [
            f"--dir={top / 'data'}", f"--local-config={self.local}",
            f"--system-config={self.system}",
        ]  # fmt: skip
        self.keys = TrustedKeys(self.local, self.system)
        self._capsys = capsys

    def trust(self, *words: str, status: int = 0) -> tuple[str, str]:
        """What `kvmrkt trust` printed on standard output and error."""
        assert run([*self.flags, "trust", *words]) == status
        captured = self._capsys.readouterr()
        return captured.out, captured.err

    def files(self) -> list[str]:
        """The key files that are there, below trustedkeys."""
        top = self.local / "trustedkeys"
        return sorted(str(path.relative_to(top)) for path in top.rglob("*") if path.is_file())


@pytest.fixture
def host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Host:
    return Host(tmp_path, capsys)


@pytest.fixture
def key_file(gpg: Gpg, tmp_path: Path) -> Path:
    path = tmp_path / "pubkeys.gpg"
    path.write_bytes(gpg.export("one@example.com"))
    return path


def test_a_key_file_is_trusted_for_a_prefix(host: Host, gpg: Gpg, key_file: Path) -> None:
    key, subkey = gpg.fingerprints("one@example.com")
    out, err = host.trust(f"--prefix={PREFIX}", "--skip-fingerprint-review", str(key_file))
    path = host.local / "trustedkeys/prefix.d" / PREFIX / key
    assert out.splitlines() == [
        f"gpg key fingerprint is: {spaced_fingerprint(key)}",
        f"    Subkey fingerprint: {spaced_fingerprint(subkey)}",
        "\tOne <one@example.com>",
        f'Trusting "{key_file}" for prefix "{PREFIX}" without fingerprint review.',
        f'Added key for prefix "{PREFIX}" at "{path}"',
    ]
    assert err == f'pubkey: prefix: "{PREFIX}"\nkey: "{key_file}"\n'
    assert [found.fingerprint for found in host.keys.for_name(PREFIX)] == [key]


def test_a_root_key_is_trusted_for_every_image(host: Host, gpg: Gpg, key_file: Path) -> None:
    key = gpg.fingerprints("one@example.com")[0]
    out, err = host.trust("--root", "--skip-fingerprint-review", str(key_file))
    assert out.splitlines()[-2:] == [
        f'Trusting "{key_file}" for prefix "" without fingerprint review.',
        f'Added root key at "{host.local}/trustedkeys/root.d/{key}"',
    ]
    assert err.startswith('pubkey: prefix: ""\n')
    assert len(host.keys.for_name("anything")) == 1


def test_every_key_that_was_shown_is_trusted(host: Host, gpg: Gpg, tmp_path: Path) -> None:
    both, again = tmp_path / "both", tmp_path / "again"
    both.write_bytes(gpg.run("--export", "one@example.com", "two@example.com"))
    again.write_bytes(gpg.export("two@example.com"))
    out, _ = host.trust("--root", "--skip-fingerprint-review", str(both), str(again))
    fingerprints = [gpg.fingerprints(f"{name}@example.com")[0] for name in ("one", "two")]
    assert all(spaced_fingerprint(one) in out for one in fingerprints)
    assert host.files() == sorted(f"root.d/{one}" for one in fingerprints)


def test_fingerprints_are_spaced_as_gpg_spaces_them() -> None:
    assert spaced_fingerprint("8b86de38890ddb7291867b025210bd8888182190") == (
        "8B86 DE38 890D DB72 9186  7B02 5210 BD88 8818 2190"
    )


def test_a_bad_key_is_shown_with_a_warning(host: Host, gpg: Gpg, tmp_path: Path) -> None:
    key = gpg.new_key("past@example.com", expires="1y")
    path = tmp_path / "key"
    path.write_bytes(gpg.export(key))
    out, _ = host.trust("--root", "--skip-fingerprint-review", str(path))
    assert "    warning: this key expired on 2020-12-31; nothing it signed is accepted\n" in out


def test_without_a_terminal_nobody_can_be_asked(host: Host, key_file: Path) -> None:
    out, err = host.trust(f"--prefix={PREFIX}", str(key_file), status=254)
    assert "gpg key fingerprint is:" in out
    assert "trust: error reviewing key: unable to ask user to review fingerprint due to" in err
    assert "--skip-fingerprint-review" in err
    assert host.files() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["KEY"], "aborting due to implicit unbounded trust (root domain)"),
        (["--root", "--prefix=example.com", "KEY"], "mutually exclusive"),
        (["--prefix=https://example.com", "KEY"], "must not contain a URL scheme, omit https://"),
        (["--prefix=Example.com", "KEY"], 'invalid prefix "Example.com"'),
        (["--root"], "error determining key location: empty prefix"),
        (["--root", "/nowhere"], 'error accessing the key "/nowhere": open /nowhere: no such file'),
        (["--root", "/dev/zero"], "open /dev/zero: not a regular file"),
        (["--root", "/"], "open /: is a directory"),
        (["--root", "a\0b"], "embedded null "),  # byte, or since Python 3.13 character
        (["--root", "ftp://example.com/key"], "only local files and http or https URLs supported"),
        (["--root", "http://example.com/key"], "--insecure-allow-http required for http URLs"),
        (["--nosuch"], "--nosuch"),
    ],
)
def test_what_cannot_be_meant_is_refused(host: Host, words: list[str], message: str) -> None:
    _, err = host.trust("--skip-fingerprint-review", *words, status=254)
    assert message in err
    assert "internal error" not in err
    assert host.files() == []


def test_without_any_word_the_help_is_shown(host: Host) -> None:
    out, err = host.trust(status=254)
    assert out == ""
    assert err.startswith("Usage: kvmrkt trust")


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x99\xff\xff"])
def test_a_file_that_is_no_key_is_refused(host: Host, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    _, err = host.trust("--root", "--skip-fingerprint-review", str(path), status=254)
    assert f'trust: error reading the key "{path}": ' in err
    assert host.files() == []


def test_a_private_key_is_never_stored(host: Host, gpg: Gpg, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(gpg.export_secret("one@example.com"))
    _, err = host.trust("--root", "--skip-fingerprint-review", str(path), status=254)
    assert "a private key" in err
    assert host.files() == []


def test_a_key_comes_over_https(host: Host, gpg: Gpg, server: Server) -> None:
    server.answers["/key"] = Answer(gpg.export("one@example.com"))
    url = server.url("/key")
    out, _ = host.trust(f"--prefix={PREFIX}", "--skip-fingerprint-review", url)
    assert f'Trusting "{url}" for prefix "{PREFIX}" without fingerprint review.' in out
    assert len(host.files()) == 1


def test_https_is_reviewed_unless_it_is_trusted_to_name_keys(
    host: Host, gpg: Gpg, server: Server
) -> None:
    server.answers["/key"] = Answer(gpg.export("one@example.com"))
    url = server.url("/key")
    host.trust(f"--prefix={PREFIX}", url, status=254)
    assert host.files() == []
    out, _ = host.trust(f"--prefix={PREFIX}", "--trust-keys-from-https", url)
    assert "without fingerprint review." in out
    assert len(host.files()) == 1


def test_only_true_https_names_keys(
    host: Host, gpg: Gpg, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--root", "--trust-keys-from-https", "--insecure-allow-http"]
    server.answers["/key"] = Answer(gpg.export("one@example.com"))
    with serving(tls=False) as plain:
        plain.answers["/key"] = server.answers["/key"]
        server.answers["/moved"] = redirect(plain.url("/key"))
        for url in (plain.url("/key"), server.url("/moved")):
            _, err = host.trust(*flags, url, status=254)
            assert "unable to ask user" in err
    monkeypatch.delenv("SSL_CERT_FILE")
    _, err = host.trust("--insecure-options=tls", *flags, server.url("/key"), status=254)
    assert "unable to ask user" in err
    assert host.files() == []
    host.trust("--insecure-options=tls,pubkey", *flags, server.url("/key"))
    assert len(host.files()) == 1


def test_plain_http_needs_its_flag(host: Host, gpg: Gpg, monkeypatch: pytest.MonkeyPatch) -> None:
    direct(monkeypatch)
    flags = ["--root", "--skip-fingerprint-review"]
    with serving(tls=False) as plain:
        plain.answers["/key"] = Answer(gpg.export("one@example.com"))
        host.trust(*flags, plain.url("/key"), status=254)
        host.trust("--insecure-options=http", *flags, plain.url("/key"), status=254)
        assert plain.asked == []
        host.trust("--insecure-allow-http", *flags, plain.url("/key"))
    assert len(host.files()) == 1


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer(status=404), "the server has no such file"),
        (Answer(status=500), "bad HTTP status code: 500"),
        (Answer(b"x" * ((1 << 20) + 1)), "larger than 1048576 bytes"),
        (Answer(b"<html>"), "no OpenPGP data in it"),
        (Answer(b"x" * 1000, cut_after=10), "broke"),
    ],
)
def test_a_server_without_the_key_is_an_error(
    host: Host, server: Server, answer: Answer, why: str
) -> None:
    server.answers["/key"] = answer
    _, err = host.trust("--root", "--skip-fingerprint-review", server.url("/key"), status=254)
    assert why in err
    assert host.files() == []


def _discovers(monkeypatch: pytest.MonkeyPatch, found: list[str] | ImageError) -> list[Any]:
    """Discovery has its own tests; here it finds what it is told, and notes what it is asked."""
    asked: list[Any] = []

    def discover_keys(name: str, **options: Any) -> list[str]:
        asked.append((name, options["insecure"]))
        if isinstance(found, ImageError):
            raise found
        return found

    monkeypatch.setattr(discovery, "discover_keys", discover_keys)
    return asked


def test_without_a_key_the_prefix_names_it(
    host: Host, gpg: Gpg, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/key"] = Answer(gpg.export("one@example.com"))
    asked = _discovers(monkeypatch, [server.url("/key")])
    host.trust(f"--prefix={PREFIX}", "--skip-fingerprint-review", "--insecure-allow-http")
    assert asked == [(PREFIX, InsecureOptions(http=True))]
    assert len(host.files()) == 1


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ([], "resulted in no keys"),
        (["/etc/passwd", "file:///etc/passwd"], "resulted in no keys"),
        (ImageError("found no ACI meta tags"), "found no ACI meta tags"),
    ],
)
def test_a_prefix_that_names_no_key_is_an_error(
    host: Host, monkeypatch: pytest.MonkeyPatch, found: Any, why: str
) -> None:
    _discovers(monkeypatch, found)
    _, err = host.trust(f"--prefix={PREFIX}", status=254)
    assert err.startswith("trust: error determining key location: prefix meta discovery error: ")
    assert why in err


def test_the_answer_decides(host: Host, gpg: Gpg, tmp_path: Path, key_file: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(gpg.export("two@example.com"))
    seen: list[Review] = []
    said: list[str] = []

    def confirm(review: Review) -> bool:
        seen.append(review)
        return review.source == str(other)

    written = add_keys(
        host.keys, [str(key_file), str(other)], prefix=PREFIX, insecure=InsecureOptions(),
        confirm=confirm, report=said.append,
    )  # fmt: skip
    assert [(review.prefix, review.source) for review in seen] == [
        (PREFIX, str(key_file)), (PREFIX, str(other)),
    ]  # fmt: skip
    assert f'not trusting "{key_file}"' in said
    assert f'Trusting "{other}" for prefix "{PREFIX}" after fingerprint review.' in said
    assert [path.name for path in written] == gpg.fingerprints("two@example.com")


def _policy(host: Host, said: list[str], **options: Any) -> FetchPolicy:
    return FetchPolicy(keys=host.keys, report=said.append, **options)


def test_a_fetch_by_name_offers_the_names_keys(
    host: Host, gpg: Gpg, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/key"] = Answer(gpg.export("one@example.com"))
    _discovers(monkeypatch, [server.url("/key")])
    said: list[str] = []
    discover_and_add(PREFIX, _policy(host, said))
    assert host.files() == []
    assert any("unable to ask user" in line for line in said)
    discover_and_add(PREFIX, _policy(host, said, confirm=lambda _: True))
    assert len(host.files()) == 1


def test_a_fetch_by_name_may_trust_https(
    host: Host, gpg: Gpg, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/key"] = Answer(gpg.export("one@example.com"))
    _discovers(monkeypatch, [server.url("/key")])
    discover_and_add(PREFIX, _policy(host, [], trust_keys_from_https=True))
    assert len(host.files()) == 1


def test_a_fetch_by_name_looks_no_further_once_a_key_is_trusted(
    host: Host, gpg: Gpg, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _discovers(monkeypatch, [])
    host.keys.add(read_keys(gpg.export("one@example.com"), "key")[0], "example.com")
    said: list[str] = []
    discover_and_add(PREFIX, _policy(host, said))
    assert said == [f'keys already exist for prefix "{PREFIX}", not fetching again']
    discover_and_add(PREFIX, FetchPolicy())
    assert asked == []


@pytest.mark.parametrize(
    ("insecure", "asked_with"),
    [
        (InsecureOptions(http=True), InsecureOptions()),
        (InsecureOptions(tls=True), None),
        (InsecureOptions(http=True, pubkey=True), InsecureOptions(http=True, pubkey=True)),
        (InsecureOptions(tls=True, pubkey=True), InsecureOptions(tls=True, pubkey=True)),
    ],
)
def test_keys_come_insecurely_only_with_the_option_for_keys(
    host: Host,
    monkeypatch: pytest.MonkeyPatch,
    insecure: InsecureOptions,
    asked_with: InsecureOptions | None,
) -> None:
    asked = _discovers(monkeypatch, ImageError("nothing there", hint="look elsewhere"))
    said: list[str] = []
    discover_and_add(PREFIX, _policy(host, said, insecure=insecure))
    assert asked == ([] if asked_with is None else [(PREFIX, asked_with)])
    assert asked_with is None or "  hint: look elsewhere" in said


def test_an_unasked_source_is_an_error_with_advice(host: Host, key_file: Path) -> None:
    with pytest.raises(SignatureError) as caught:
        add_keys(
            host.keys, [str(key_file)], prefix=PREFIX, insecure=InsecureOptions(),
            report=lambda _: None,
        )  # fmt: skip
    assert f'kvmrkt trust --prefix "{PREFIX}"' in (caught.value.hint or "")


@pytest.fixture
def terminal(host: Host, key_file: Path) -> Iterator[pexpect.spawn[str]]:
    words = [*host.flags, "trust", f"--prefix={PREFIX}", str(key_file)]
    with pexpect.spawn(
        sys.executable, ["-m", "kvmrkt", *words], encoding="utf-8", timeout=60
    ) as child:
        child.expect(r"Are you sure you want to trust this key \(yes/no\)\?\r\n")
        yield child


def _end(terminal: pexpect.spawn[str]) -> tuple[str, int]:
    terminal.expect(pexpect.EOF)
    text = terminal.before or ""
    terminal.close()
    return text, terminal.exitstatus or 0


def test_yes_on_the_terminal_trusts_the_key(host: Host, terminal: pexpect.spawn[str]) -> None:
    terminal.sendline("yes")
    text, status = _end(terminal)
    assert "after fingerprint review." in text
    assert status == 0
    assert len(host.files()) == 1


def test_no_on_the_terminal_does_not(host: Host, terminal: pexpect.spawn[str]) -> None:
    terminal.sendline("no")
    text, status = _end(terminal)
    assert "pubkey: not trusting" in text
    assert status == 0
    assert host.files() == []


def test_anything_else_on_the_terminal_is_asked_again(
    host: Host, terminal: pexpect.spawn[str]
) -> None:
    for answer in ("y", ""):
        terminal.sendline(answer)
        terminal.expect_exact("Please enter 'yes' or 'no'")
        terminal.expect_exact("Are you sure you want to trust this key (yes/no)?")
    terminal.sendeof()
    text, status = _end(terminal)
    assert "error reading input: EOF" in text
    assert status == 254
    assert host.files() == []


def test_ctrl_c_on_the_terminal_trusts_nothing(host: Host, terminal: pexpect.spawn[str]) -> None:
    terminal.sendintr()
    text, status = _end(terminal)
    assert "Traceback" not in text
    assert status == 130
    assert host.files() == []
