"""The validator of the npm package `fhir` (FHIR R4), which also checks codes of required value sets."""

import json
import shutil
import subprocess
from pathlib import Path

PACKAGE = "fhir@4.12.0"
SCRIPT = """
const {Fhir} = require("fhir");
const bundles = JSON.parse(require("fs").readFileSync(process.argv[2], "utf8"));
const results = bundles.map(bundle => new Fhir().validate(bundle, {errorOnUnexpected: true}));
console.log(JSON.stringify(results.map(result => result.messages)));
"""


def install(folder: Path) -> str | None:
    """Install the package below `folder`; why that is not possible, or None."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        return "node and npm are missing: apt-get install nodejs npm"
    (folder / "package.json").write_text("{}")
    (folder / "validate.js").write_text(SCRIPT)
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0", PACKAGE]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return "the npm registry does not answer"
    return None if done.returncode == 0 else f"npm could not install {PACKAGE}"


def problems(folder: Path, bundles: list[dict]) -> list[list[dict]]:
    """The messages of each bundle, except information and warnings that a code is not in an example value set."""
    (folder / "bundles.json").write_text(json.dumps(bundles))
    command = ["node", "validate.js", "bundles.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=True)
    return [[message for message in messages if _is_problem(message)] for messages in json.loads(done.stdout)]


def _is_problem(message: dict) -> bool:
    is_example = message["severity"] == "warning" and message["message"].endswith("not found in value set")
    return message["severity"] != "info" and not is_example
