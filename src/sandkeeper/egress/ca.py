"""Extra certificate authorities: the system's bundle plus the operator's, in a file of our own."""

import base64
import binascii
import ssl
from pathlib import Path

import msgspec

from sandkeeper.linux.paths.trusted import UntrustedFile, read_trusted, write_trusted
from sandkeeper.patterns import pattern

__all__ = ["BadCertificates", "Bundle", "extra_certificates", "merge_bundle", "named_certificates"]

SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
BUNDLE_BYTES = 8 << 20
_BLOCK = pattern(
    r"-----BEGIN (?P<kind>[A-Z0-9 ]+)-----(?P<body>[A-Za-z0-9+/=\s]*)-----END (?P=kind)-----"
)


class BadCertificates(Exception):
    """The extra certificates are none."""


class Bundle(msgspec.Struct, frozen=True):
    """The files written: `merged` for most programs, `extra` alone for Node.

    `base` is the bundle that was extended; `warning` says when the public roots had to be taken
    from somewhere else than the operator named.
    """

    merged: Path
    extra: Path
    base: str
    warning: str


def extra_certificates(text: str) -> str:
    """Return the certificates in `text` as clean PEM; raises BadCertificates.

    Whatever else stands there (a private key, say) is refused: the file is for everyone to read.
    """
    if "\n" not in text.strip():
        text = text.replace("\\n", "\n")
    blocks = list(_BLOCK.finditer(text))
    if not blocks:
        raise BadCertificates("there is no complete PEM block")
    clean: list[str] = []
    for block in blocks:
        if block["kind"] != "CERTIFICATE":
            raise BadCertificates(f"a {block['kind']} block is not a certificate")
        try:
            data = base64.b64decode("".join(block["body"].split()), validate=True)
            clean.append(ssl.DER_cert_to_PEM_cert(data))
        except (binascii.Error, ValueError):
            raise BadCertificates("a block is not base64") from None
    pem = "".join(clean)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except ssl.SSLError as error:
        raise BadCertificates(f"a block is not a certificate: {error.reason or error}") from None
    return pem


def named_certificates(setting: str) -> tuple[str, Path | None]:
    """Return the certificates that a setting means, and their file when it names one.

    It is the path of a PEM file, or PEM itself. Raises BadCertificates, UntrustedFile.
    """
    if "-----BEGIN " in setting:
        return extra_certificates(setting), None
    path = setting.strip()
    try:
        data = read_trusted(path, BUNDLE_BYTES)
    except (OSError, ValueError) as error:
        raise BadCertificates(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return extra_certificates(data.decode("utf-8", "replace")), Path(path)


def merge_bundle(extra: str, *, base: str, merged: Path, named: Path | None = None) -> Bundle:
    """Write both files, readable by all; raises OSError, UntrustedFile.

    Where the extra ones have a file already, `named`, that one stays theirs.

    Nobody else may rule the folder: the certificates in it are what programs of root's believe.
    """
    path, content, warning = _roots(base)
    beside = merged.with_name(merged.stem + "-extra" + (merged.suffix or ".crt"))
    separator = b"" if not content or content.endswith(b"\n") else b"\n"
    if named is None:
        write_trusted(beside, extra.encode(), mode=0o644)
    write_trusted(merged, content + separator + extra.encode(), mode=0o644)
    return Bundle(merged, named or beside, path, warning)


def _roots(base: str) -> tuple[str, bytes, str]:
    """Return the public roots: the named bundle, else a system's, else the one httpx brings.

    What others could have led us to is passed by: everybody may read the merged file, and there
    are files that hold certificates beside a private key.
    """
    import certifi

    for path in filter(None, dict.fromkeys((base, *SYSTEM_BUNDLES, certifi.where()))):
        try:
            content = _bundle_at(path, ours=path == certifi.where())
        except (OSError, UntrustedFile):
            continue
        if b"-----BEGIN CERTIFICATE-----" in content:
            named = base or SYSTEM_BUNDLES[0]
            warning = "" if path == named else f"{named} has no certificates; using {path}"
            return path, content, warning
    return "", b"", "no public roots were found: only the extra certificates will be trusted"


def _bundle_at(path: str, *, ours: bool) -> bytes:
    if not ours:
        return read_trusted(path, BUNDLE_BYTES)
    with open(path, "rb") as file:  # a part of what runs here, whoever installed it
        return file.read(BUNDLE_BYTES)
