"""`Sessions`: readers of a local page, who come with a link that holds a one-time token."""

import hmac
import secrets
import threading
from collections.abc import Callable


class Sessions:
    """One-time tokens in links, and the session tokens that they are exchanged for. Both live in memory only.

    Args:
        on_link: called with a reader and a new one-time token: at the start and after one was used.
    """

    def __init__(self, on_link: Callable[[str, str], None]) -> None:
        self._on_link = on_link
        self._links: dict[str, str] = {}
        self._sessions: dict[str, str] = {}
        self._lock = threading.Lock()

    def invite(self, reader: str) -> str:
        """A new one-time token for a reader."""
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._links[token] = reader
        self._on_link(reader, token)
        return token

    def exchange(self, token: str) -> tuple[str, str] | None:
        """(session token, reader) for a one-time token, which is used up; None if it is not valid."""
        with self._lock:
            known = next((one for one in self._links if hmac.compare_digest(one.encode(), token.encode())), None)
            if known is None:
                return None
            reader = self._links.pop(known)
            session = secrets.token_urlsafe(24)
            self._sessions[session] = reader
        self.invite(reader)  # so that a closed tab does not lock the reader out
        return session, reader

    def reader(self, session: str) -> str | None:
        """The reader of a session token, or None."""
        with self._lock:
            known = [one for one in self._sessions if hmac.compare_digest(one.encode(), session.encode())]
            return self._sessions[known[0]] if known else None
