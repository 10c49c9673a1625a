"""Settings for the tests of the server."""

import sys
from pathlib import Path

_TESTS = Path(__file__).parents[1]
for _folder in (_TESTS / "server", _TESTS / "clinical", _TESTS / "batch"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))  # `delivery_peers`; `archive`, `clinical_films`; `web_peer`
