"""From what a person wrote to an image in the store."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from kvmrkt.errors import ImageError, ImageNotFoundError, SignatureError, UsageError
from kvmrkt.images.references import (
    DockerArchiveReference,
    DockerReference,
    FileReference,
    HashReference,
    NameReference,
    OciLayoutReference,
    Reference,
    UrlReference,
    parse_reference,
)
from kvmrkt.images.store import Source, file_source

if TYPE_CHECKING:
    from kvmrkt.images.policy import FetchPolicy, PullPolicy
    from kvmrkt.images.signatures.gate import Gate
    from kvmrkt.images.store import Image, Store

_MAX_DEPENDENCIES = 500
_NO_SIGNATURE_HINT = "use --insecure-options=image to take the image without a signature"


def find_image(
    store: Store,
    text: str,
    policy: FetchPolicy,
    *,
    signature: Path | None = None,
    dependencies: bool = True,
) -> Image:
    """The image the text names, fetched into the store if it must be; notes its use.

    With `dependencies` the images it depends on are fetched too, those that the store lacks.
    Raises SignatureError, before anything of the image is parsed, if it would have to be verified
    and cannot; ImageNotFoundError if nothing answers to the text; UsageError for a text that names
    nothing; ArchiveError, ManifestError and StoreError as `Store.import_aci`.
    """
    image = _find(store, parse_reference(text), policy, signature)
    if dependencies:
        _complete(store, image, policy)
    store.touch(image.id)
    return image


def import_trusted(store: Store, path: Path) -> Image:
    """The image in a file that came with kvmrkt, without a signature; notes its use.

    Raises ImageNotFoundError if the file is not there.
    """
    image = _unverified_file(store, path)
    store.touch(image.id)
    return image


def find_in_store(store: Store, text: str) -> Image:
    """The image an image command's argument names: a hash prefix, or a name with labels.

    Raises ImageNotFoundError if the store has none.
    """
    reference = parse_reference(text, is_file=lambda _: False)
    if isinstance(reference, HashReference):
        return store.find_by_hash(reference.prefix)
    if isinstance(reference, NameReference):
        image = store.find_by_name(reference.name, dict(reference.labels))
        if image is not None:
            return image
        raise ImageNotFoundError(f'no image IDs found: nothing in the store is "{reference}"')
    raise UsageError(f'"{text}" is neither an image ID nor an image name')


def is_trusted(image: Image, policy: FetchPolicy) -> bool:
    """Whether an image in the store may be taken as it is, without its source."""
    if policy.insecure.image:
        return True
    if not image.signer or policy.keys is None:
        return False
    return any(
        key.fingerprint == image.signer and not key.problem
        for key in policy.keys.for_name(image.name)
    )


def _find(store: Store, reference: Reference, policy: FetchPolicy, signature: Path | None) -> Image:
    if isinstance(reference, HashReference):
        return store.find_by_hash(reference.prefix)
    if isinstance(reference, FileReference):
        if policy.insecure.image:
            return _unverified_file(store, reference.path)
        return _verified_file(store, reference.path, policy, signature)
    if isinstance(reference, NameReference):
        return _named(store, reference, policy, signature)
    if isinstance(reference, UrlReference):
        known = store.known_source("url", reference.url)
        if known and policy.pull != "update" and is_trusted(known.image, policy):
            return known.image
        if policy.pull == "never":
            raise _nothing(reference)
        from kvmrkt.images.remote import fetch_url

        return fetch_url(store, reference.url, policy, signature)
    return _container(store, reference, policy)


def _named(
    store: Store, reference: NameReference, policy: FetchPolicy, signature: Path | None
) -> Image:
    image = store.find_by_name(reference.name, dict(reference.labels))
    if image is not None and policy.pull != "update":
        return image
    if policy.pull == "never":
        raise _nothing(reference)
    from kvmrkt.images.remote import fetch_name

    return fetch_name(store, reference, policy, signature)


def _container(
    store: Store,
    reference: DockerReference | OciLayoutReference | DockerArchiveReference,
    policy: FetchPolicy,
) -> Image:
    """A docker or OCI image. Nobody signs those: their digests are all there is to check."""
    if not policy.insecure.image:
        raise SignatureError(
            f'cannot verify image "{reference}": signature verification for docker images is not'
            " supported (try --insecure-options=image)"
        )
    location = str(reference)
    known = store.known_source("docker", location)
    is_here = not isinstance(reference, DockerReference)  # whether it changed is quickly seen
    if known and (policy.pull == "never" or (policy.pull == "new" and not is_here)):
        return known.image
    if policy.pull == "never":
        raise _nothing(reference)
    from kvmrkt.images.docker.fetch import fetch_docker

    with store.source_lock(Source("docker", location, "")):
        if (fetched := store.known_source("docker", location)) and fetched != known:
            return fetched.image  # by somebody else, while we waited
        return fetch_docker(store, reference, policy=policy)


def _unverified_file(store: Store, path: Path) -> Image:
    try:
        source = file_source(path)
    except OSError as error:
        raise _no_file(path, error) from None
    return store.cached(source) or store.import_aci(path)


def _verified_file(store: Store, path: Path, policy: FetchPolicy, signature: Path | None) -> Image:
    try:
        known = store.cached(file_source(path))
    except OSError as error:
        raise _no_file(path, error) from None
    if known is not None and is_trusted(known, policy):
        return known
    gate = file_gate(f'"{path}"', policy, signature or Path(f"{path}.asc"))
    from kvmrkt.images.importing import import_file

    return import_file(store, path, gate=gate)


def file_gate(
    shown: str, policy: FetchPolicy, signature: Path, reference: NameReference | None = None
) -> Gate:
    """The gate for an image whose signature lies in a file; SignatureError if it does not."""
    what = f"cannot verify image {shown}"
    try:
        from kvmrkt.images.signatures.trustedkeys import read_key_file

        data = read_key_file(signature)
    except ImageError as error:
        raise SignatureError(
            f"{what}: error opening signature file: {error.message}", hint=_NO_SIGNATURE_HINT
        ) from None
    return make_gate(shown, policy, data, os.fspath(signature), reference)


def make_gate(
    shown: str,
    policy: FetchPolicy,
    signature: bytes,
    signature_source: str,
    reference: NameReference | None = None,
) -> Gate:
    """The gate for an image with this signature; SignatureError if no trusted key made it.

    With a reference the image must be what was asked for.
    """
    from kvmrkt.images.signatures import openpgp
    from kvmrkt.images.signatures.gate import SignatureGate

    if policy.keys is None:
        raise SignatureError(
            f"cannot verify image {shown}: no key is trusted to sign images",
            hint=_NO_SIGNATURE_HINT,
        )
    name = reference.name if reference else None
    keys = policy.keys.for_name(name) if name else policy.keys.all()
    read = openpgp.read_signature(signature, f'signature "{signature_source}"')
    openpgp.check_issuer(read, keys, f"image {shown}", name=name or "")
    labels = dict(reference.labels) if reference else None
    return SignatureGate(policy.keys, read, f"image {shown}", policy.report, name, labels)


def _complete(store: Store, image: Image, policy: FetchPolicy) -> None:
    """Fetch what the image depends on, and what that depends on, as far as the store lacks it."""
    missing = [image]
    seen = {image.id}
    while missing:
        parent = missing.pop()
        for dependency in parent.manifest().dependencies:
            labels = tuple((label.name, label.value) for label in dependency.labels)
            reference = NameReference(dependency.image_name, labels)
            try:
                found = _dependency(store, reference, dependency.image_id, policy)
            except ImageError as error:
                raise type(error)(
                    f'cannot fetch image "{reference}", which "{parent.name}" depends on',
                    hint=error.hint or "fetch it first, from a file or a URL",
                ) from error
            if found.id not in seen:
                seen.add(found.id)
                missing.append(found)
        if len(seen) > _MAX_DEPENDENCIES:
            raise ImageError(f'image "{image.name}" stands on more than {_MAX_DEPENDENCIES} images')


def _dependency(
    store: Store, reference: NameReference, image_id: str | None, policy: FetchPolicy
) -> Image:
    if image_id is None:
        import msgspec

        return _named(store, reference, msgspec.structs.replace(policy, pull=_once(policy)), None)
    try:
        return store.find_by_hash(image_id)
    except ImageNotFoundError:
        if policy.pull == "never":
            raise
    from kvmrkt.images.remote import fetch_name

    image = fetch_name(store, reference, policy, None)
    if not image.id.startswith(image_id):
        raise ImageError(f'"{reference}" is now image {image.id}, not {image_id}')
    return image


def _once(policy: FetchPolicy) -> PullPolicy:
    """Dependencies are looked for on the network only if the store has none."""
    return "never" if policy.pull == "never" else "new"


def _no_file(path: Path, error: OSError) -> ImageNotFoundError:
    reason = (error.strerror or os.strerror(errno.ENOENT)).lower()
    return ImageNotFoundError(f"open {path}: {reason}")


def _nothing(reference: Reference) -> ImageNotFoundError:
    return ImageNotFoundError(
        f'unable to fetch image from image name "{reference}": either image was not found in the'
        " store or store was disabled and fetching from remote yielded nothing or it was disabled",
        hint="fetch it from a file or an https URL first: kvmrkt fetch",
    )
