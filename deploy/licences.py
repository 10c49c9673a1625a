"""`python deploy/licences.py`: a Markdown page of the licences of the packages in this environment but kneegrade.

Run it with the Python of an environment that has the packages of requirements.lock and nothing else (`make licences`).
The licence is the SPDX expression of a package's metadata where it has one, else its classifiers, else its field
License where that is short.
"""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from typing import Final

SPDX: Final = {  # of classifiers and of texts in the field License
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "apache-2.0": "Apache-2.0",
    "apache": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "isc license (iscl)": "ISC",
    "mit": "MIT",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "mpl-2.0": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
}
PAGE: Final = """# Licences of dependencies

The packages that `requirements.lock` installs (`kneegrade[dicom,serve]`, CPU-only torch), with the licence that each
package states. Written by `make licences`; a test checks that the list fits the lock and has no GPL, AGPL or unknown
licence. kneegrade itself: Apache-2.0, `LICENSE` and `NOTICE`. Wheels such as those of numpy and scipy also contain
compiled libraries; their notices are in the wheels. The extras `openvino` and `ray` are not in the lock; both state
Apache-2.0.

| package | version | licence |
|---|---|---|
"""


def licence(package: Distribution) -> str:
    """The licence that the package states, as an SPDX expression where it is known; "unknown" if it states none."""
    metadata = package.metadata
    if expression := metadata.get("License-Expression"):
        return str(expression)
    classifiers = [line for line in metadata.get_all("Classifier", []) if line.startswith("License ::")]
    named = [name for line in classifiers if (name := line.split(" :: ")[-1]) != "OSI Approved"]
    text = re.sub(r"\s+", " ", metadata.get("License") or "").strip()
    if named:
        return " AND ".join(sorted({SPDX.get(each.lower(), each) for each in named}))
    return SPDX.get(text.lower(), text) if 0 < len(text) < 60 else "unknown"


def rows() -> Iterator[str]:
    """Lines of the table, sorted by name."""
    packages = {re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower(): each for each in distributions()}
    for name, package in sorted(packages.items()):
        if name != "kneegrade":
            yield f"| {name} | {package.version} | {licence(package)} |"


if __name__ == "__main__":
    sys.stdout.write(PAGE + "\n".join(rows()) + "\n")
