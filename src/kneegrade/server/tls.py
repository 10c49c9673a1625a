"""`server_tls`: the TLS context of the DICOM node and of the REST service."""

import ssl
from pathlib import Path

from kneegrade.errors import UsageError


def server_tls(section: str, certificate: Path, key: Path | None, clients: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or later, as the profile of PS3.15 B.12 (BCP 195) asks.

    Args:
        section: of serve.toml, for messages.
        certificate: file with the certificate of this computer and the chain to its authority.
        key: its private key; None: it is in the same file.
        clients: authorities of the clients; with it, only clients with such a certificate can connect.

    Raises:
        UsageError: a file cannot be read or does not fit.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password="")  # without it, OpenSSL asks for that of an encrypted key
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UsageError(
            f"The certificate, its key or the authorities in [{section}] cannot be used ({reason}); check the files.",
            code="tls",
        ) from None
    return context
