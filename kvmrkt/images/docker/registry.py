"""An image in a registry, by the Docker Registry HTTP API v2, which is OCI's distribution API."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from kvmrkt.errors import ImageError, ImageNotFoundError
from kvmrkt.images.docker.convert import Origin
from kvmrkt.images.docker.digests import Readable, check_content, digest_of
from kvmrkt.images.docker.manifests import ACCEPTED, MAX_DOCUMENT_BYTES, Descriptor
from kvmrkt.images.docker.registry_blob import BlobStream
from kvmrkt.images.docker.registry_login import RegistryLogin, login_hint, read_body
from kvmrkt.images.docker.sources import FoundImage, Layer, resolve, usable
from kvmrkt.images.references import DOCKER_HUB
from kvmrkt.images.web import http as web

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import requests

    from kvmrkt.images.policy import FetchPolicy
    from kvmrkt.images.references import DockerReference

_MAX_ERROR_BYTES = 1 << 16
_SHOWN_CHARACTERS = 200
_SHOWN_ERRORS = 3
_TOO_MANY_REQUESTS = 429


class _Problem(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class _Problems(msgspec.Struct, frozen=True):
    errors: list[_Problem] = []


_PROBLEMS = msgspec.json.Decoder(_Problems)


class RegistryClient:
    """Requests about one repository; may be used from several threads at once."""

    def __init__(
        self,
        session: requests.Session,
        reference: DockerReference,
        login: tuple[str, str] | None,
    ) -> None:
        """`login` is user and password, if any are known. Asks nothing yet."""
        self._session = session
        self._registry = reference.registry
        self._repository = reference.repository
        self._base = f"https://{reference.registry}"
        self._login = RegistryLogin(
            session, registry=reference.registry, repository=reference.repository, login=login
        )

    def greet(self, *, plain_http: bool) -> None:
        """See that there is a registry, and what it wants; plain http only where https fails."""
        import requests

        action = f"reach registry {self._registry}"
        with web.asking(action):
            try:
                answer = self._session.get(f"{self._base}/v2/")
            except requests.exceptions.SSLError as error:
                if not plain_http:
                    raise _explained(error, action) from None
                answer = self._greet_plainly()
            except requests.ConnectionError:
                if not plain_http:
                    raise
                answer = self._greet_plainly()
            with answer:
                self._check_greeting(answer, action)

    def get(
        self, path: str, action: str, headers: Mapping[str, str] | None = None
    ) -> requests.Response:
        """A streaming answer with a good status, to be closed; for use within `web.asking`.

        `path` is below the repository's own. Raises as `web.check_status`, in the registry's words.
        """
        url = f"{self._base}/v2/{self._repository}/{path}"
        answer = self._session.get(url, headers={**(headers or {}), **self._login.headers()})
        if self._may_retry(answer):
            answer.close()
            answer = self._session.get(url, headers={**(headers or {}), **self._login.headers()})
        if not answer.ok:
            with answer:
                self._refuse(answer, action)
        return answer

    def _greet_plainly(self) -> requests.Response:
        self._base = f"http://{self._registry}"
        return self._session.get(f"{self._base}/v2/")

    def _check_greeting(self, answer: requests.Response, action: str) -> None:
        if answer.status_code == 401:
            self._may_retry(answer)
        elif answer.status_code in web.NO_SUCH_FILE:
            raise ImageError(f"cannot {action}: it does not speak the registry API v2")
        elif not answer.ok:
            self._refuse(answer, action)

    def _may_retry(self, answer: requests.Response) -> bool:
        """Whether the registry itself, not whereto it redirects, demands what we can give."""
        if answer.status_code != 401 or answer.history:
            return False
        return self._login.accept(answer.headers.get("WWW-Authenticate", ""))

    def _refuse(self, answer: requests.Response, action: str) -> None:
        """Raise for a bad status, with the registry's reasons."""
        status = answer.status_code
        reasons = "; ".join([f"status {status}", *_reasons(answer)])
        if status in web.NO_SUCH_FILE:
            raise ImageNotFoundError(f"cannot {action}: the registry does not have it ({reasons})")
        if status in web.UNAUTHORIZED:
            raise ImageError(
                f"cannot {action}: the registry denies access ({reasons})",
                hint=login_hint(self._registry),
            )
        if status == _TOO_MANY_REQUESTS:
            after = answer.headers.get("Retry-After", "")
            when = f"try again in {after} seconds" if after.isdecimal() else "try again later"
            raise ImageError(
                f"cannot {action}: the registry limits how often it may be asked ({reasons})",
                hint=f"{when}, or {login_hint(self._registry)}",
            )
        raise ImageError(f"cannot {action}: the registry failed ({reasons})")


class RegistrySource:
    """One image of a registry."""

    def __init__(self, client: RegistryClient, reference: DockerReference) -> None:
        """`client` must have greeted the registry."""
        self._client = client
        self._reference = reference

    def find(self) -> FoundImage:
        """The image with the tag or the digest asked for."""
        reference = self._reference
        what = str(reference)
        data, media_type = self._manifest(
            reference.digest or reference.tag or "latest", f'fetch image "{what}"'
        )
        digest = reference.digest or digest_of(data)
        with usable(what):
            check_content(data, digest, "its manifest")
        descriptor = Descriptor(digest, len(data), media_type)
        resolved = resolve(self, descriptor, data, what)
        origin = Origin(
            registry=reference.registry,
            repository=reference.repository,
            tag=reference.tag or "",
            original_name=_original_name(reference),
            image_id=resolved.top_digest,
            manifest_digest=resolved.digest,
        )
        return FoundImage(resolved.config, resolved.layers, origin)

    @contextmanager
    def open_layer(self, layer: Layer) -> Iterator[Readable]:
        """The blob, resumed where a connection breaks."""
        with BlobStream(self._client.get, layer) as stream:
            yield stream

    def read_manifest(self, descriptor: Descriptor) -> bytes:
        """A manifest by its digest."""
        return self._manifest(descriptor.digest, f"download manifest {descriptor.digest}")[0]

    def read_config(self, descriptor: Descriptor) -> bytes:
        """A small blob."""
        action = f"download configuration {descriptor.digest}"
        with (
            web.asking(action),
            self._client.get(f"blobs/{descriptor.digest}", action) as answer,
        ):
            return read_body(answer, MAX_DOCUMENT_BYTES, action)

    def _manifest(self, name: str, action: str) -> tuple[bytes, str]:
        headers = {"Accept": ", ".join(ACCEPTED)}
        with (
            web.asking(action),
            self._client.get(f"manifests/{name}", action, headers) as answer,
        ):
            content = read_body(answer, MAX_DOCUMENT_BYTES, action)
            return content, answer.headers.get("Content-Type", "")


@contextmanager
def open_registry(reference: DockerReference, policy: FetchPolicy) -> Iterator[RegistrySource]:
    """The image a reference names, in a registry that answers; ImageError if it does not."""
    credentials = policy.credentials
    login = None if credentials is None else credentials.docker_login(reference.registry)
    with web.session(policy.insecure, credentials) as session:
        client = RegistryClient(session, reference, login)
        client.greet(plain_http=policy.insecure.http)
        yield RegistrySource(client, reference)


def _explained(error: Exception, action: str) -> ImageError:
    """What failed over TLS, with the advice for a registry that does not use it."""
    try:
        with web.asking(action):
            raise error
    except ImageError as explained:
        explained.hint = explained.hint or (
            "if the registry speaks plain http only: --insecure-options=http"
        )
        return explained


def _original_name(reference: DockerReference) -> str:
    """The name as docker's users write it."""
    name = str(reference).removeprefix("docker://")
    return name.removeprefix(f"{DOCKER_HUB}/").removeprefix("library/")


def _reasons(answer: requests.Response) -> list[str]:
    """What the registry says went wrong."""
    try:
        problems = _PROBLEMS.decode(read_body(answer, _MAX_ERROR_BYTES, "read an error")).errors
    except (ImageError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    texts = (f"{problem.code} {problem.message}".strip() for problem in problems)
    return [_printable(text) for text in texts if text][:_SHOWN_ERRORS]


def _printable(text: str) -> str:
    """A stranger's text, for a terminal."""
    shown = text[:_SHOWN_CHARACTERS]
    return "".join(character if character.isprintable() else "?" for character in shown)
