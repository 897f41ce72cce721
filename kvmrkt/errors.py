"""What can go wrong, as one tree.

    KvmrktError                 exit status 254 unless a subclass says otherwise
    ├── UsageError              the command line or an argument of the API is wrong
    ├── ConfigError             a configuration file is wrong
    ├── ImageError              an image was refused or could not be had
    │   ├── ImageNotFoundError
    │   ├── ArchiveError        not an App Container image, or a hostile one
    │   ├── ManifestError       a manifest breaks the specification
    │   └── SignatureError      not signed by a trusted key
    ├── StoreError              the image store could not do what was asked
    ├── PodError                a pod is missing or in the wrong state
    │   ├── PodNotFoundError
    │   └── PodTimeoutError     what was waited for has not come in time
    ├── HostError               this host lacks something a pod needs
    └── EngineError             the machinery around a pod failed while it ran
        ├── VmmError            QEMU or a helper process died or refused
        ├── OutOfMemoryError    the host, or the guest, had no memory left for the pod
        ├── GuestError          the guest broke the protocol or went down by itself
        │   ├── GuestPanicError     its kernel panicked
        │   ├── AgentSilentError    its agent, once heard, fell silent
        │   └── BootTimeoutError    its agent was not heard in time
        └── AppStartError       the agent could not start an app

Every message says what was attempted, on what, and why it failed; `hint` says what to do.

The exit statuses (docs/exit-statuses.md) lie between those that systemd gives a meaning (200 to
245) and rkt's 254; an app may end with any of them itself, which `kvmrkt status` tells apart.
"""

from __future__ import annotations

EXIT_FAILURE = 254
"""rkt's exit status for every failure that is not an app's own."""
EXIT_IMAGE_REFUSED = 253
"""For the commands that make a pod: one of its images was refused."""


class KvmrktError(Exception):
    """Base of all errors kvmrkt raises on purpose."""

    exit_status: int = EXIT_FAILURE
    """What a command returns that the error ends."""

    def __init__(
        self, message: str, *, hint: str | None = None, details: str | None = None
    ) -> None:
        """`message` is one sentence; `details` are lines to show below it (a console's tail).

        `command` is the command line's: which command the error ended.
        """
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details
        self.command: str | None = None

    def causes(self) -> list[str]:
        """The messages from this error to its innermost cause, outermost first."""
        chain: list[str] = []
        error: BaseException | None = self
        while error is not None:
            text = error.message if isinstance(error, KvmrktError) else describe(error)
            if not chain or chain[-1] != text:
                chain.append(text)
            error = error.__cause__
        return chain


def describe(error: BaseException) -> str:
    """One line on an exception that is not ours; an OSError as its reason and its file."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


class UsageError(KvmrktError):
    """The command line, or an argument of the API, is wrong."""


class ConfigError(KvmrktError):
    """A configuration file is wrong; the message names file and key."""


class ImageError(KvmrktError):
    """An image was refused or could not be had."""


class ImageNotFoundError(ImageError):
    """No image answers to the reference."""


class ArchiveError(ImageError):
    """A file is not an App Container image, is damaged, or is hostile."""


class ManifestError(ImageError):
    """A manifest breaks the specification; the message names the field's path."""


class SignatureError(ImageError):
    """An image is not signed by a key trusted for it."""


class StoreError(KvmrktError):
    """The image store could not do what was asked."""


class PodError(KvmrktError):
    """A pod is in the wrong state for what was asked."""


class PodNotFoundError(PodError):
    """No pod, or more than one, answers to the UUID given."""


class PodTimeoutError(PodError):
    """What was waited for has not come within the time given."""


class HostError(KvmrktError):
    """This host lacks something that a pod needs."""


class EngineError(KvmrktError):
    """The machinery around a pod failed while the pod ran."""


class VmmError(EngineError):
    """QEMU, or a process that serves it, died or refused."""

    exit_status = 252


class OutOfMemoryError(EngineError):
    """The host had no memory for the machine, or the guest none for its kernel and agent."""

    exit_status = 251


class GuestError(EngineError):
    """The guest broke the protocol, or went down by itself."""

    exit_status = 250


class GuestPanicError(GuestError):
    """The guest's kernel panicked; the message has its last words."""

    exit_status = 249


class AgentSilentError(GuestError):
    """The guest's agent had been heard, and fell silent while the guest ran on."""

    exit_status = 248


class BootTimeoutError(GuestError):
    """The guest's agent was not heard within the time given."""

    exit_status = 247


class AppStartError(EngineError):
    """The agent could not start an app; the message is the agent's reason."""
