"""Settings for the tests of the server."""

import sys
from pathlib import Path

for _folder in (Path(__file__).parent, Path(__file__).parents[1] / "clinical"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))  # `delivery_peers`; `archive`, `clinical_films`
