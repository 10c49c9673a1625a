"""`check_limits`: a node on this computer is attacked before the real one serves.

The limits depend on internals of pynetdicom. Where a version of it no longer works in the same way, kneegrade refuses
to serve, instead of serving without limits.
"""

import logging
import socket
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from kneegrade.errors import KneeGradeError
from kneegrade.imaging.limits import MEBIBYTE
from kneegrade.server.node.node_limits import NodeLimits
from kneegrade.server.node.node_options import NodeOptions
from kneegrade.server.node.node_service import FILM_CLASSES, Node
from kneegrade.server.spool.film_spool import Spool

ANNOUNCED_BYTES: Final = 700 * MEBIBYTE
_ASSOCIATE_RQ, _P_DATA = 1, 4
_MAX_SENT_BYTES: Final = 32 * MEBIBYTE  # what the buffers of the system take although nobody reads
_SECONDS: Final = 10.0
_FILM_BYTES: Final = MEBIBYTE  # more than a message in memory may have


def check_limits() -> None:
    """Return if a node cuts off too long PDUs and writes films into its spool.

    Raises:
        KneeGradeError: it does not.
    """
    with tempfile.TemporaryDirectory(prefix="kneegrade-") as folder, _without_logging():
        spool = Spool(Path(folder), min_free_bytes=0)
        node = Node(NodeOptions(limits=NodeLimits(network_seconds=_SECONDS)), spool).start()
        try:
            failure = _failure(node.port, Path(folder), spool)
        finally:
            node.stop()
            spool.close()
    if failure:
        import pynetdicom

        raise KneeGradeError(
            f"The DICOM node does not start, because {failure} with pynetdicom {pynetdicom.__version__}; install the "
            'version that kneegrade was made for: pip install --force-reinstall "kneegrade[serve]".',
            code="self_test",
        )


@contextmanager
def _without_logging() -> Iterator[None]:
    """What the attacked node would log would look like an attack on the real one."""
    earlier = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(earlier)


def _failure(port: int, folder: Path, spool: Spool) -> str | None:
    with socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as sock:
        if not _is_cut_off(sock, _ASSOCIATE_RQ):
            return "an association request of any length would be read"
    entity = AE("SELFTEST")
    entity.add_requested_context(ComputedRadiographyImageStorage, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port, ae_title="KNEEGRADE")
    if not association.is_established:
        return "no association can be made"
    try:
        if not _stores_into(association, folder, spool):
            return "films would not be written into the spool"
        if not _is_cut_off(association.dul.socket.socket, _P_DATA):  # type: ignore[union-attr]
            return "data of any length would be read"
    finally:
        association.abort()
    return None


def _is_cut_off(sock: Any, pdu_type: int) -> bool:
    """Whether the node ends a connection on which a PDU of `ANNOUNCED_BYTES` begins."""
    sock.settimeout(_SECONDS)
    block = bytes(65536)
    try:
        sock.sendall(struct.pack(">BBL", pdu_type, 0, ANNOUNCED_BYTES))
        for _ in range(_MAX_SENT_BYTES // len(block)):
            sock.sendall(block)
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


def _stores_into(association: Any, folder: Path, spool: Spool) -> bool:
    """Whether a film arrives in the spool."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset

    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.SOPClassUID, film.SOPInstanceUID = FILM_CLASSES[0], "2.25.1"
    film.EncapsulatedDocument = bytes(_FILM_BYTES)
    status = association.send_c_store(film)
    return "Status" in status and status.Status == 0 and spool.counts()["films"]["received"] == 1
