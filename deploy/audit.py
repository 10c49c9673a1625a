"""`python deploy/audit.py requirements.lock`: known vulnerabilities of the locked packages, by pip-audit.

pip-audit ends with "No known vulnerabilities found" where its service knows none of the packages or holds no
advisories, as behind some package mirrors. So a release with well-known vulnerabilities is looked up too: if it
passes, nothing was audited, and the exit code is 2. Exit code 1: a package has a known
vulnerability, or was not found. 0: none.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

KNOWN_BAD: Final = "pillow==9.0.0"  # CVE-2022-22817 and others


def answers(requirements: str) -> list[dict[str, Any]]:
    """What pip-audit says of each package: name, and version and vulns, or skip_reason; empty if it did not run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requirements.txt"
        path.write_text(requirements, encoding="utf-8")
        command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--format", "json", "-r", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return []
    return found


def locked_versions(text: str) -> list[str]:
    """The `name==version` lines of a lock file; a local version such as 2.13.0+cpu counts as the public one."""
    lines = (line.split(" ")[0] for line in text.splitlines() if line[:1].isalnum())
    return [line.partition("+")[0] for line in lines]


def main(path: Path) -> int:
    """Prints the vulnerabilities; returns the exit code."""
    if not any(answer.get("vulns") for answer in answers(KNOWN_BAD)):
        print(
            f"Nothing was audited: the vulnerability service cannot be reached from here, or has no advisories (it "
            f"reports none for {KNOWN_BAD}). Run this where PyPI's JSON interface is reachable.",
            file=sys.stderr,
        )
        return 2
    found = answers("\n".join(locked_versions(path.read_text(encoding="utf-8"))))
    for package in found:
        for vulnerability in package.get("vulns", ()):
            fixed = ", ".join(vulnerability["fix_versions"]) or "none yet"
            print(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
        if "skip_reason" in package:
            print(f"{package['name']}: {package['skip_reason']}")
    bad = [package for package in found if package.get("vulns") or "skip_reason" in package]
    print(f"{len(found)} packages, {len(bad)} with a known vulnerability or not found.")
    return 1 if bad or not found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
