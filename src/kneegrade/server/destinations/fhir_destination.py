"""`FhirDestination`: results to a FHIR R4 server, each film as one transaction.

A transaction is taken as a whole or not at all, and each of its entries is a conditional update, so that sending it
again changes nothing. The patient is named by an identifier with its system. Without both, the results could be filed
under another patient, so they are not sent.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from kneegrade.batch.web_archive import DAMAGED, NotStored, http_failure
from kneegrade.batch.web_session import AnswerTooLongError, WebSession
from kneegrade.server.destinations.delivery import Sent
from kneegrade.server.destinations.destination_settings import FhirSettings
from kneegrade.server.destinations.stow_destination import sent_one_by_one, web_access
from kneegrade.server.spool.film_spool import Delivery

if TYPE_CHECKING:
    from requests import Response

MEDIA_TYPE: Final = "application/fhir+json"
NO_PATIENT: Final = "The film states no patient ID."
NO_SYSTEM: Final = "The film states no issuer of the patient ID, and patient_system is not set."


class FhirDestination:
    """A FHIR R4 server.

    Args:
        settings: of the server.
        silent_seconds: to wait for an answer.
    """

    def __init__(self, settings: FhirSettings, *, silent_seconds: float = 60.0) -> None:
        self._settings, self._silent_seconds = settings, silent_seconds

    @property
    def name(self) -> str:
        """Of the destination in the spool."""
        return self._settings.name

    def send(self, deliveries: Sequence[Delivery]) -> Iterator[Sent]:
        """What became of each delivery; it ends early when the server takes nothing."""
        with WebSession(web_access(self._settings), silent_seconds=self._silent_seconds) as session:
            session.headers["Accept"] = MEDIA_TYPE
            yield from sent_one_by_one(deliveries, lambda delivery: self._deliver(session, delivery))

    def _deliver(self, session: WebSession, delivery: Delivery) -> NotStored | None:
        """None if the server has taken the transaction of a film, else why not."""
        try:
            bundle = json.loads(delivery.path.read_bytes())
            missing = name_patients(bundle, self._settings.patient_system)
        except (ValueError, KeyError, TypeError, AttributeError):
            missing = DAMAGED
        return NotStored(missing, is_final=True) if missing else self._post(session, bundle)

    def _post(self, session: WebSession, bundle: Mapping[str, Any]) -> NotStored | None:
        """None if the server has taken the transaction, else why not."""
        import requests

        content = json.dumps(bundle, ensure_ascii=False).encode("utf-8")
        try:
            answer = session.post(self._settings.url, data=content, headers={"Content-Type": MEDIA_TYPE})
            answer.raise_for_status()
        except requests.HTTPError as error:
            return http_failure(0 if error.response is None else error.response.status_code)
        except requests.ConnectionError as error:
            return NotStored(f"No connection ({type(error).__name__}).", is_unavailable=True)
        except (requests.RequestException, AnswerTooLongError) as error:
            return NotStored(f"No answer ({type(error).__name__}).")
        return (
            None
            if _is_taken(answer, len(bundle["entry"]))
            else NotStored("The answer does not say that the results were taken.")
        )


def _is_taken(answer: "Response", entries: int) -> bool:
    """Whether the answer lists each entry of the transaction with a status of success."""
    try:
        body = answer.json()
        statuses = [str(entry["response"]["status"]) for entry in body["entry"]]
        kind = body["type"]
    except (ValueError, KeyError, TypeError):
        return False
    return kind == "transaction-response" and len(statuses) == entries and all(one[:1] == "2" for one in statuses)


def name_patients(bundle: Mapping[str, Any], system: str | None) -> str | None:
    """What the identifiers of the patient lack, after `system` was added where there is none; None if nothing.

    Args:
        bundle: that is changed.
        system: of identifiers whose issuer the film does not state.
    """
    for entry in bundle["entry"]:
        for resource in (entry["resource"], *entry["resource"].get("contained", ())):
            subject = resource.get("subject")
            if subject is None:
                continue
            identifier = subject.get("identifier")
            if not identifier or not identifier.get("value"):
                return NO_PATIENT
            if not identifier.get("system"):
                if system is None:
                    return NO_SYSTEM
                identifier["system"] = system
    return None
