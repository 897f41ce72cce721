"""Signing a request for Amazon's services and what imitates them (AWS Signature Version 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

DEFAULT_REGION = "us-east-1"
_SERVICE = "s3"
_ALGORITHM = "AWS4-HMAC-SHA256"
_EMPTY_BODY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
_UNRESERVED = "-_.~"


class AwsKey(msgspec.Struct, frozen=True):
    """An access key of Amazon's S3, or of a store that speaks its protocol."""

    access_key_id: str
    secret_access_key: str
    region: str = DEFAULT_REGION

    def __repr__(self) -> str:
        """Without the secret."""
        return f"AwsKey({self.access_key_id!r}, region={self.region!r})"

    def headers_for(
        self,
        method: str,
        url: str,
        *,
        now: datetime | None = None,
        signed: Mapping[str, str] | None = None,
    ) -> dict[str, str]:
        """The headers that sign a request without a body; `signed` are others to be signed too."""
        import hashlib
        import hmac
        from datetime import UTC, datetime
        from urllib.parse import quote, unquote, urlsplit

        moment = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
        ours = {"x-amz-content-sha256": _EMPTY_BODY, "x-amz-date": moment}
        headers = {key.lower(): text.strip() for key, text in (signed or {}).items()}
        headers |= ours | {"host": _host(url)}
        names = ";".join(sorted(headers))
        request = "\n".join(
            [
                method,
                quote(unquote(urlsplit(url).path) or "/", safe="/" + _UNRESERVED),
                _canonical_query(urlsplit(url).query),
                *(f"{name}:{headers[name]}" for name in sorted(headers)),
                "",
                names,
                _EMPTY_BODY,
            ]
        )
        scope = f"{moment[:8]}/{self.region}/{_SERVICE}/aws4_request"
        digest = hashlib.sha256(request.encode()).hexdigest()
        to_sign = f"{_ALGORITHM}\n{moment}\n{scope}\n{digest}"
        signature = hmac.new(self._key(moment[:8]), to_sign.encode(), hashlib.sha256).hexdigest()
        return ours | {
            "Authorization": f"{_ALGORITHM} Credential={self.access_key_id}/{scope},"
            f"SignedHeaders={names},Signature={signature}"
        }

    def _key(self, day: str) -> bytes:
        import hmac

        key = f"AWS4{self.secret_access_key}".encode(errors="surrogatepass")
        for part in (day, self.region, _SERVICE, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        return key


def _host(url: str) -> str:
    """The Host header as it is sent: a default port is left out."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2].lower()
    default = {"https": ":443", "http": ":80"}.get(parts.scheme, "")
    return host.removesuffix(default) if default else host


def _canonical_query(query: str) -> str:
    from urllib.parse import parse_qsl, quote

    pairs = parse_qsl(query, keep_blank_values=True)
    encoded = [(quote(key, safe=_UNRESERVED), quote(text, safe=_UNRESERVED)) for key, text in pairs]
    return "&".join(f"{key}={text}" for key, text in sorted(encoded))
