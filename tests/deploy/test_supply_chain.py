"""Promise 12: requirements.lock fits pyproject.toml, is complete and hashed; licences; the audit says if it audited."""

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "deploy"))
packaging = pytest.importorskip("packaging", reason="packaging is missing: pip install packaging")
from packaging.requirements import Requirement  # noqa: E402
from packaging.utils import canonicalize_name  # noqa: E402

LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
LINUX = {"python_version": "3.11", "python_full_version": "3.11.2", "sys_platform": "linux", "extra": "",
         "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix",
         "implementation_name": "cpython", "platform_python_implementation": "CPython"}  # fmt: skip
ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "ISC", "MIT", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Zlib",
}  # fmt: skip


def locked():
    """Name → version."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", LOCK, re.MULTILINE))


def required():
    """What pyproject.toml asks of a server."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    texts = [*project["dependencies"], *extras["dicom"], *extras["serve"]]
    return [Requirement(text) for text in texts if not text.startswith("kneegrade[")]


def test_the_lock_fits_pyproject():
    versions = locked()
    for requirement in required():
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}: make lock"


def test_each_package_has_a_hash_and_no_address():
    entries = re.split(r"^(?=[a-z0-9-]+==)", LOCK, flags=re.MULTILINE)[1:]
    assert len(entries) == len(locked()) > 50
    for entry in entries:
        assert re.fullmatch(r"\S+==\S+( \\\n    --hash=sha256:[0-9a-f]{64})+\n", entry), entry[:80]


def test_what_the_locked_packages_need_is_locked_too():
    versions, checked = locked(), 0
    for name, version in versions.items():
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        if package.version != version:
            continue
        checked += 1
        for requirement in map(Requirement, package.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate(LINUX):
                needed = versions.get(canonicalize_name(requirement.name))
                assert needed is not None, f"{name} needs {requirement}"
                assert requirement.specifier.contains(needed, prereleases=True), f"{name} needs {requirement}"
    if not checked:
        pytest.skip("no package is installed in its locked version")


def test_the_list_of_licences_fits_the_lock_and_each_is_permissive():
    page = (ROOT / "docs/reference/licences.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\S+) \| (\S+) \| (.+) \|$", page, re.MULTILINE)[1:]
    assert {name: version for name, version, _ in rows if name != "---"} == locked()
    for name, _, licence in rows:
        choices = [re.split(r" AND ", choice) for choice in licence.split(" OR ")]
        assert any(set(parts) <= ALLOWED for parts in choices), f"{name}: {licence}"


@pytest.mark.parametrize(
    ("text", "expected"), [("", "unknown"), ("GNU General Public License v3", "GNU General Public License v3")]
)
def test_a_missing_or_copyleft_licence_would_be_seen(text, expected, tmp_path):
    from importlib.metadata import Distribution

    from licences import licence

    (tmp_path / "METADATA").write_text(f"Metadata-Version: 2.1\nName: x\nVersion: 1\nLicense: {text}\n")
    found = licence(Distribution.at(tmp_path))
    assert found == expected
    assert found not in ALLOWED


def test_the_audit_takes_the_public_version():
    from audit import locked_versions

    assert "torch==" + locked()["torch"].partition("+")[0] in locked_versions(LOCK)
    assert len(locked_versions(LOCK)) == len(locked())


def test_an_audit_that_reaches_nothing_says_so(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pip_audit", reason="pip-audit is missing: pip install pip-audit")
    import audit

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    assert audit.main(ROOT / "requirements.lock") == 2
    assert capsys.readouterr().err.startswith("Nothing was audited: ")


def test_the_settings_of_compose_are_accepted():
    settings = pytest.importorskip("kneegrade.server.settings", reason="needs kneegrade.server")
    found = settings.load_settings(ROOT / "deploy" / "serve.toml")
    compose = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text(encoding="utf-8"))["services"]
    addresses = {name: service["networks"]["inside"]["ipv4_address"] for name, service in compose.items()}
    assert found.node.calling == {"ARCHIVE": (addresses["archive"],)}
    assert found.destination[0].host == addresses["archive"]
    assert str(found.spool.directory).startswith(compose["kneegrade"]["volumes"][0].split(":")[1])
