"""Keys and detached signatures, made by gpg, good and bad."""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from gpg_keys import LATER, THEN, Gpg, gpg_home
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmrkt.errors import ImageError, SignatureError
from kvmrkt.images.signatures.openpgp import (
    MAX_KEYS,
    MAX_SIGNATURES,
    Signer,
    check_issuer,
    good_signers,
    read_keys,
    read_signature,
    verify,
)
from kvmrkt.images.signatures.packets import MAX_BYTES, PUBLIC_SUBKEY, read_packets

CONTENT = b"an image"


class Keys(NamedTuple):
    """A gpg home with a good Ed25519 key and a good RSA key."""

    gpg: Gpg
    ed: str
    rsa: str
    ed_key: bytes
    ed_signature: bytes


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    with gpg_home(tmp_path_factory.mktemp("k")) as gpg:
        ed = gpg.new_key("ed@example.com")
        rsa = gpg.new_key("rsa@example.com", algorithm="rsa2048")
        yield Keys(gpg, ed, rsa, gpg.run("--export", ed), gpg.sign(ed, CONTENT, "--no-armor"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.aci"
    path.write_bytes(CONTENT)
    return path


def check(signature: bytes, file: Path, *trusted: bytes) -> Signer:
    public = [key for data in trusted for key in read_keys(data, "key")]
    return verify(read_signature(signature, "a.asc"), file, public, 'image "a"')


def refused(signature: bytes, file: Path, *trusted: bytes) -> str:
    with pytest.raises(SignatureError) as caught:
        check(signature, file, *trusted)
    assert caught.value.message.startswith('cannot verify image "a": ')
    return caught.value.message


@pytest.mark.parametrize("form", ["--armor", "--no-armor"])
@pytest.mark.parametrize("algorithm", ["ed", "rsa"])
def test_a_good_signature_names_its_signer(
    keys: Keys, file: Path, algorithm: str, form: str
) -> None:
    key = keys.ed if algorithm == "ed" else keys.rsa
    signature = keys.gpg.sign(key, CONTENT, form)
    assert check(signature, file, keys.gpg.export(keys.ed), keys.gpg.export(keys.rsa)) == Signer(
        key, (f"{algorithm.title()} <{algorithm}@example.com>",), key
    )


def test_keys_are_read_armored_or_binary_one_or_several(keys: Keys) -> None:
    armored = [keys.gpg.export(key) for key in (keys.ed, keys.rsa)]
    binary = keys.gpg.run("--export", keys.ed, keys.rsa)
    together = keys.gpg.export(keys.ed, keys.rsa)
    for data in (b"".join(armored), binary, together, b"\xef\xbb\xbf# ours\r\n" + together):
        found = read_keys(data, "keys")
        assert {key.fingerprint for key in found} == {keys.ed, keys.rsa}
        assert all(key.problem == "" for key in found)
    key = read_keys(armored[0], "key")[0]
    assert read_keys(key.armored, "again") == [key]


def test_a_signature_by_a_subkey_is_its_keys(keys: Keys, file: Path) -> None:
    key = keys.gpg.new_key("sub@example.com", usage="cert")
    subkey = keys.gpg.add_subkey(key, "ed25519", "sign")
    keys.gpg.add_subkey(key, "cv25519", "encr")
    signer = check(keys.gpg.sign(key, CONTENT), file, keys.gpg.export(key))
    assert (signer.fingerprint, signer.signing_key) == (key, subkey)
    assert subkey in read_keys(keys.gpg.export(key), "key")[0].subkeys


@pytest.mark.parametrize("join", ["armored", "binary", "one block"])
def test_one_good_signature_of_two_is_enough(keys: Keys, file: Path, join: str) -> None:
    form = "--armor" if join == "armored" else "--no-armor"
    both = b"".join(keys.gpg.sign(key, CONTENT, form) for key in (keys.ed, keys.rsa))
    if join == "one block":
        lines = base64.encodebytes(both)
        both = b"-----BEGIN PGP SIGNATURE-----\n\n" + lines + b"-----END PGP SIGNATURE-----\n"
    for key in (keys.ed, keys.rsa):
        assert check(both, file, keys.gpg.export(key)).fingerprint == key
    bad = keys.gpg.sign(keys.ed, b"another", form) + keys.gpg.sign(keys.rsa, CONTENT, form)
    trusted = (keys.gpg.export(keys.ed), keys.gpg.export(keys.rsa))
    assert check(bad, file, *trusted).fingerprint == keys.rsa
    public = [key for data in trusted for key in read_keys(data, "key")]
    for signature, signers in ((both, [keys.ed, keys.rsa]), (bad, [keys.rsa])):
        found = good_signers(read_signature(signature, "a.asc"), file, public, "it")
        assert [signer.fingerprint for signer in found] == signers


def test_a_changed_file_is_refused(keys: Keys, file: Path) -> None:
    signature = keys.gpg.sign(keys.ed, CONTENT)
    for content in (CONTENT + b"\n", CONTENT[:-1], b""):
        file.write_bytes(content)
        assert "does not match the content" in refused(signature, file, keys.gpg.export(keys.ed))


def test_a_wrong_signer_is_named_with_what_to_do(keys: Keys, file: Path) -> None:
    signature = read_signature(keys.gpg.sign(keys.ed, CONTENT), "a.asc")
    other = read_keys(keys.gpg.export(keys.rsa), "key")
    for trusted, why in ((other, "that key is not trusted"), ([], "no key is trusted")):
        with pytest.raises(SignatureError, match=f"signed by key {keys.ed}, and {why}") as caught:
            check_issuer(signature, trusted, 'image "a"', name="example.com/a")
        assert 'kvmrkt trust --prefix "example.com/a"' in (caught.value.hint or "")
        with pytest.raises(SignatureError, match=why):
            verify(signature, file, trusted, 'image "a"')
    check_issuer(signature, [*other, *read_keys(keys.gpg.export(keys.ed), "key")], "a")


def test_a_signature_that_claims_a_trusted_issuer_is_not_good_for_that(
    keys: Keys, file: Path
) -> None:
    other = keys.gpg.new_key("forger@example.com")
    mine, theirs = bytes.fromhex(other), bytes.fromhex(keys.ed)
    forged = keys.gpg.sign(other, CONTENT, "--no-armor")
    forged = forged.replace(mine, theirs).replace(mine[-8:], theirs[-8:])
    assert "does not match the content" in refused(forged, file, keys.gpg.export(keys.ed))


def test_an_expired_key_is_refused_even_for_what_it_signed_before(keys: Keys, file: Path) -> None:
    key = keys.gpg.new_key("expired@example.com", expires="1y")
    signature = keys.gpg.sign(key, CONTENT)
    assert "expired on 2020-12-31" in refused(signature, file, keys.gpg.export(key))
    keys.gpg.run("--quick-set-expire", key.upper(), "0", at=LATER)
    assert check(signature, file, keys.gpg.export(key)).fingerprint == key


def test_a_revoked_key_is_refused(keys: Keys, file: Path) -> None:
    key = keys.gpg.new_key("revoked@example.com")
    signature = keys.gpg.sign(key, CONTENT)
    assert check(signature, file, keys.gpg.export(key)).fingerprint == key
    keys.gpg.revoke(key)
    assert "is revoked" in refused(signature, file, keys.gpg.export(key))


def test_a_key_retired_after_it_signed_is_refused(keys: Keys, file: Path) -> None:
    key = keys.gpg.new_key("retired@example.com")
    signature = keys.gpg.sign(key, CONTENT)
    keys.gpg.edit(key, "revkey", "y", "3", "", "y", at="20210101T000000")
    assert "is revoked" in refused(signature, file, keys.gpg.export(key))


def test_an_expired_subkey_is_refused_until_it_is_renewed(keys: Keys, file: Path) -> None:
    key = keys.gpg.new_key("renewed@example.com")
    subkey = keys.gpg.add_subkey(key, "ed25519", "sign", "1y")
    signature = keys.gpg.sign(subkey + "!", CONTENT)
    assert f"{subkey} expired on 2020-12-31" in refused(signature, file, keys.gpg.export(key))
    keys.gpg.run("--quick-set-expire", key.upper(), "0", subkey.upper(), at=LATER)
    assert check(signature, file, keys.gpg.export(key)).signing_key == subkey


def test_a_revoked_subkey_is_refused(keys: Keys, file: Path) -> None:
    key = keys.gpg.new_key("lost@example.com")
    subkey = keys.gpg.add_subkey(key, "ed25519", "sign")
    signature = keys.gpg.sign(subkey + "!", CONTENT)
    keys.gpg.edit(key, "key 1", "revkey", "y", "0", "", "y")
    assert f"{subkey} is revoked" in refused(signature, file, keys.gpg.export(key))


def test_a_subkey_that_may_not_sign_is_refused(keys: Keys, file: Path) -> None:
    key = keys.gpg.new_key("changed@example.com")
    subkey = keys.gpg.add_subkey(key, "rsa2048", "sign")
    signature = keys.gpg.sign(subkey + "!", CONTENT)
    keys.gpg.edit(key, "key 1", "change-usage", "s", "a", "q")  # authentication instead
    assert f"{subkey} may not sign" in refused(signature, file, keys.gpg.export(key))


def test_a_short_subkey_is_refused(keys: Keys, file: Path) -> None:
    key = keys.gpg.new_key("short@example.com")
    subkey = keys.gpg.add_subkey(key, "rsa1024", "sign")
    signature = keys.gpg.sign(subkey + "!", CONTENT)
    assert f"{subkey} is too short" in refused(signature, file, keys.gpg.export(key))


def test_an_expired_signature_is_refused(keys: Keys, file: Path) -> None:
    signature = keys.gpg.sign(keys.ed, CONTENT, "--default-sig-expire", "1d")
    assert "expired on 2020-02-02" in refused(signature, file, keys.gpg.export(keys.ed))


def test_a_signature_from_the_future_is_refused(keys: Keys, file: Path) -> None:
    signature = keys.gpg.sign(keys.ed, CONTENT, at="20990101T000000")
    assert "from the future (2099-01-01" in refused(signature, file, keys.gpg.export(keys.ed))


@pytest.mark.parametrize("name", ["SHA1", "RIPEMD160"])
def test_a_weak_hash_is_refused(keys: Keys, file: Path, name: str) -> None:
    signature = keys.gpg.sign(keys.rsa, CONTENT, "--digest-algo", name)
    assert "not safe any more" in refused(signature, file, keys.gpg.export(keys.rsa))


@pytest.mark.parametrize(
    ("options", "algorithm"), [(["--cert-digest-algo", "SHA1"], "rsa2048"), ([], "rsa1024")]
)
def test_a_weak_key_is_refused_with_the_reason(
    keys: Keys, file: Path, options: list[str], algorithm: str
) -> None:
    email = f"weak-{algorithm}@example.com"
    key = keys.gpg.new_key(email, *options, algorithm=algorithm, at="20250101T000000")
    data = keys.gpg.export(key)
    signature = keys.gpg.sign(key, CONTENT, at="20250201T000000")
    assert "is not safe to rely on" in refused(signature, file, data)
    assert "not considered secure" in read_keys(data, "key")[0].problem


def test_a_signature_over_a_text_is_refused(keys: Keys, file: Path) -> None:
    signature = keys.gpg.sign(keys.ed, CONTENT, "--textmode")
    assert "not a signature over a file" in refused(signature, file, keys.gpg.export(keys.ed))


def test_a_signature_older_than_its_key_is_refused(keys: Keys, file: Path) -> None:
    key = keys.gpg.new_key("young@example.com", at=LATER)
    signature = keys.gpg.sign(key, CONTENT, "--ignore-time-conflict", at=THEN)
    refused(signature, file, keys.gpg.export(key))


def test_a_subkey_of_unknown_make_is_passed_over(keys: Keys, file: Path) -> None:
    key = keys.gpg.new_key("strange@example.com")
    keys.gpg.add_subkey(key, "ed25519", "auth")
    data = bytearray(keys.gpg.run("--export", key))
    subkey = next(one for one in read_packets(bytes(data), "") if one.tag == PUBLIC_SUBKEY)
    data[data.index(subkey.raw) + 2] = 9  # its version
    assert check(keys.gpg.sign(key, CONTENT), file, bytes(data)).fingerprint == key
    assert read_keys(bytes(data), "key")[0].subkeys == ()


def test_a_missing_file_is_an_error_of_its_own(keys: Keys, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot verify") as caught:
        check(keys.gpg.sign(keys.ed, CONTENT), tmp_path / "none", keys.gpg.export(keys.ed))
    assert not isinstance(caught.value, SignatureError)
    assert "No such file" in caught.value.causes()[-1]


def test_a_file_that_breaks_off_is_an_error_and_no_verdict(keys: Keys) -> None:
    with pytest.raises(ImageError, match="reading it failed") as caught:
        check(keys.ed_signature, Path("/proc/self/mem"), keys.ed_key)
    assert not isinstance(caught.value, SignatureError)


def test_memory_does_not_grow_with_the_file(keys: Keys, file: Path) -> None:
    size = 160 << 20
    os.truncate(file, size)
    keys.gpg.run("--local-user", keys.ed, "--detach-sign", str(file))
    (file.parent / "key").write_bytes(keys.ed_key)
    program = (
        "import sys; from pathlib import Path\n"
        "from kvmrkt.images.signatures.openpgp import read_keys, read_signature, verify\n"
        "image, signature, key = map(Path, sys.argv[1:])\n"
        "keys = read_keys(key.read_bytes(), 'key')\n"
        "verify(read_signature(signature.read_bytes(), 'sig'), image, keys, 'it')\n"
        "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )
    paths = [str(file), f"{file}.sig", str(file.parent / "key")]
    done = subprocess.run(
        [sys.executable, "-c", program, *paths], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) << 10 < size // 2


def test_a_private_key_is_refused(keys: Keys) -> None:
    with pytest.raises(SignatureError, match="mine: a private key") as caught:
        read_keys(keys.gpg.export_secret(keys.ed), "mine")
    assert "public key" in (caught.value.hint or "")


def test_an_identity_that_nobody_certified_is_not_shown(keys: Keys) -> None:
    name = b"Somebody Great <great@example.com>"
    data = keys.gpg.run("--export", keys.ed) + bytes([0xC0 | 13, len(name)]) + name
    assert read_keys(data, "key")[0].identities == ("Ed <ed@example.com>",)


def test_identities_cannot_steer_the_terminal(keys: Keys) -> None:
    identity = "Eve \x1b[2J\u202e <eve@example.com>"
    keys.gpg.run("--quick-gen-key", "--allow-freeform-uid", identity, "ed25519", "sign", at=THEN)
    key = read_keys(keys.gpg.export("eve@example.com"), "key")[0]
    assert key.identities == ("Eve \\x1b[2J\\u202e <eve@example.com>",)


def test_too_many_keys_or_signatures_are_refused(keys: Keys) -> None:
    with pytest.raises(SignatureError, match="keys in it"):
        read_keys(keys.gpg.run("--export", keys.ed) * (MAX_KEYS + 1), "keys")
    with pytest.raises(SignatureError, match="more than"):
        read_signature(keys.gpg.sign(keys.ed, b"", "--no-armor") * (MAX_SIGNATURES + 1), "sig")


def _packet(tag: int, body: bytes) -> bytes:
    return bytes([0xC0 | tag, 255]) + len(body).to_bytes(4) + body


def _bomb() -> bytes:
    inside = _packet(11, b"b\0\0\0\0\0" + bytes(8 << 20))
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return _packet(8, b"\x01" + deflate.compress(inside) + deflate.flush())


def _armor(body: str) -> bytes:
    return f"-----BEGIN PGP SIGNATURE-----\n\n{body}\n-----END PGP SIGNATURE-----\n".encode()


GARBAGE = {
    "empty": b"",
    "text": b"no such image\n",
    "html": b"<html><body>404</body></html>",
    "zeros": bytes(100),
    "too large": b"\x88" * (MAX_BYTES + 1),
    "cut header": b"\xc2",
    "cut length": b"\xc2\xff\x00\x00",
    "cut body": b"\xc2\x20abc",
    "length of 4 GiB": b"\xc2\xff\xff\xff\xff\xff",
    "partial length": b"\xc2\xe1ab\x01c",
    "no length": b"\x8babc",
    "old-format cut length": b"\x8a\x00",
    "empty packet": b"\xc2\x00",
    "a bomb": _bomb(),
    "literal data": _packet(11, b"b\0\0\0\0\0abc"),
    "only a marker": _packet(10, b"PGP"),
    "user id first": _packet(13, b"a <a@example.com>"),
    "empty armor": _armor(""),
    "armor of garbage": _armor("!!!!"),
    "armor without end": b"-----BEGIN PGP SIGNATURE-----\n\nAAAA\n",
    "armor without body": b"-----BEGIN PGP SIGNATURE-----",
    "armor of text": _armor(base64.b64encode(b"text").decode()),
    "clear-signed": b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nhi\n",
    "many beginnings": b"-----BEGIN PGP SIGNATURE-----\n" * 30_000,
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_is_neither_key_nor_signature(data: bytes) -> None:
    for read in (read_keys, read_signature):
        with pytest.raises(SignatureError, match="^it: ") as caught:
            read(data, "it")
        assert "backtrace" not in str(caught.value)


def test_a_key_is_no_signature_and_a_signature_no_key(keys: Keys) -> None:
    with pytest.raises(SignatureError, match="not a detached"):
        read_signature(keys.gpg.export(keys.ed), "it")
    with pytest.raises(SignatureError, match="not a file of public keys"):
        read_keys(keys.gpg.sign(keys.ed, CONTENT), "it")


@st.composite
def damaged(draw: st.DrawFn, sample: bytes) -> bytes:
    """The sample with an octet changed or put in, or cut off."""
    position = draw(st.integers(0, len(sample) - 1))
    kind = draw(st.sampled_from(["change", "insert", "cut"]))
    octet = bytes([draw(st.integers(0, 255))])
    rest = {"change": octet + sample[position + 1 :], "insert": octet + sample[position:]}
    return sample[:position] + rest.get(kind, b"")


@settings(deadline=None)
@given(data=st.data())
def test_a_damaged_signature_is_good_for_no_other_content(keys: Keys, data: st.DataObject) -> None:
    file = keys.gpg.home / "content"
    file.write_bytes(b"other content")
    with pytest.raises(SignatureError):
        check(data.draw(damaged(keys.ed_signature)), file, keys.ed_key)


@settings(deadline=None)
@given(data=st.data())
def test_a_damaged_key_is_refused_or_vouches_for_its_own_only(
    keys: Keys, data: st.DataObject
) -> None:
    file = keys.gpg.home / "content"
    file.write_bytes(CONTENT)
    with contextlib.suppress(SignatureError):
        signer = check(keys.ed_signature, file, data.draw(damaged(keys.ed_key)))
        assert (signer.fingerprint, signer.signing_key) == (keys.ed, keys.ed)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_without_a_traceback(data: bytes) -> None:
    for read in (read_keys, read_signature):
        with pytest.raises(SignatureError):
            read(data, "it")
