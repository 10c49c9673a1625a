"""Promise 6: nothing is executed from data. A scan of the code, and names that would harm a page or a spreadsheet."""

import ast
import csv
import json
import re
import shutil
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
from attack_tools import say
from typer.testing import CliRunner

import kneegrade
from kneegrade.commands import app
from kneegrade.evaluation.table_formats import Table, comma_separated

SOURCE = Path(kneegrade.__file__).parent
EXAMPLE = Path(__file__).parents[2] / "examples" / "single_right.dcm"
FORMULA = '=HYPERLINK("https:,,example.org","knee")'
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
EXECUTING_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "ctypes"}
EXECUTING_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "joblib.load", "runpy.run_path", "pd.read_pickle", "pandas.read_pickle",
}  # fmt: skip
EXECUTING_METHODS = {"extractall", "read_pickle", "unpack_archive"}
SAFE_SETTINGS = {"torch.load": ("weights_only", True), "Environment": ("autoescape", True)}
UNSAFE_SETTINGS = {("shell", True), ("allow_pickle", True), ("autoescape", False), ("weights_only", False)}


def findings(text: str) -> list[str]:
    """What in a module could execute data."""
    found = []
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"import {name}" for name in names if name.split(".")[0] in EXECUTING_MODULES]
        elif isinstance(node, ast.Call):
            found += _of_call(node)
    return found


def _of_call(call: ast.Call) -> list[str]:
    name = ast.unparse(call.func)
    settings = {(word.arg, getattr(word.value, "value", None)) for word in call.keywords}
    found = [f"{name}({key}={value})" for key, value in settings & UNSAFE_SETTINGS]
    is_unpacking = name.endswith(".extract") and not name.endswith(".str.extract")
    if is_unpacking or name in EXECUTING_CALLS or name.rpartition(".")[2] in EXECUTING_METHODS:
        found.append(f"{name}()")
    if name in SAFE_SETTINGS and SAFE_SETTINGS[name] not in settings:
        found.append(f"{name}() without {SAFE_SETTINGS[name][0]}")
    return found


def test_no_module_could_execute_data() -> None:
    modules = sorted(SOURCE.rglob("*.py"))
    found = {str(path.relative_to(SOURCE)): findings(path.read_text(encoding="utf-8")) for path in modules}
    found = {name: lines for name, lines in found.items() if lines}
    say(6, f"{len(modules)} modules scanned: {sum(map(len, found.values()))} ways to execute data")
    assert found == {}


def test_every_csv_writer_neutralises_formulas() -> None:
    writers = [path for path in SOURCE.rglob("*.py") if re.search(r"csv\.(Dict)?[wW]riter|to_csv\(", path.read_text())]
    without = [path.name for path in writers if not re.search(r"writerow.*escape_formula", path.read_text())]
    say(6, f"{len(writers)} modules that write CSV: {len(without)} without `escape_formula`")
    assert len(writers) >= 4
    assert without == []


def test_no_template_switches_escaping_off() -> None:
    templates = [path for path in SOURCE.rglob("templates/*") if path.is_file()]
    pattern = r"\{\{(?! (style|script) \|).*\|\s*safe\b|autoescape"  # style and script are files of the package
    unsafe = [path.name for path in templates if re.search(pattern, path.read_text(encoding="utf-8"))]
    assert templates
    assert unsafe == []


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle", "from pickle import loads", "torch.load(path)", "torch.load(path, weights_only=False)",
        "yaml.load(text)", "eval(text)", "subprocess.run(text, shell=True)", "np.load(path, allow_pickle=True)",
        "Environment(loader=None)", "archive.extractall(folder)", "os.system(text)",
        "archive.extract(member)", "import marshal",
    ],
)  # fmt: skip
def test_planted_ways_to_execute_data_are_seen(planted: str) -> None:
    assert findings(f"def f():\n    {planted}\n")


class Tags(HTMLParser):
    """The tags and attribute names of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[str, ...]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, tuple(name for name, _ in attributes)))


def harmful_tags(page: str) -> list[tuple[str, tuple[str, ...]]]:
    """Images and links that run something, and tags with handlers of events."""
    parser = Tags()
    parser.feed(page)
    return [tag for tag in parser.seen if tag[0] == "marquee" or any(name.startswith("on") for name in tag[1])]


def test_names_of_films_are_no_formulas_and_no_tags(tmp_path: Path) -> None:
    names = [FORMULA, "@SUM(1+1)", "+1-1", "<marquee onstart=alert(1)>", "'\"><img src=x onerror=alert(1)>.dcm"]
    (tmp_path / "in").mkdir()
    for name in names:
        shutil.copy(EXAMPLE, tmp_path / "in" / name.replace("/", ","))
    for command, *rest in (["grade"], ["landmarks", "--format", "pts,csv,coco"]):
        done = CliRunner().invoke(app, [command, str(tmp_path / "in"), "-o", str(tmp_path / command), "-q", *rest])
        assert done.exit_code == 0, done.output
    cells = []
    for path in (tmp_path / "grade" / "grades.csv", tmp_path / "landmarks" / "landmarks.csv"):
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.reader(stream))
        assert len(rows) == 1 + len(names)
        cells += [cell for row in rows for cell in row]
    formulas = [cell for cell in cells if cell.startswith(FORMULA_STARTS) and not is_number(cell)]
    tags = harmful_tags((tmp_path / "grade" / "report.html").read_text(encoding="utf-8"))
    say(6, f"{len(names)} names of films in {len(cells)} cells and a page: {len(formulas)} formulas, {len(tags)} tags")
    assert (formulas, tags) == ([], [])
    report = json.loads((tmp_path / "grade" / "report.json").read_text())
    assert FORMULA in {film["source"] for film in report["radiographs"]}


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_a_tag_and_a_formula_would_be_seen() -> None:
    assert harmful_tags("<p><img src=x onerror=alert(1)></p>")
    assert not is_number(FORMULA)


def test_tables_of_runs_neutralise_formulas_but_no_numbers() -> None:
    table = Table("t", "title", ("run", "change"), ((FORMULA, "-0.5"), ("**+1+1**", "+0.2")))
    assert list(csv.reader(comma_separated(table).splitlines())) == [
        ["run", "change"], ["'" + FORMULA, "-0.5"], ["'+1+1", "+0.2"],
    ]  # fmt: skip


def test_no_command_writes_outside_its_folder_for_an_archive(tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    climbing = ["../../climbed.dcm", "/tmp/absolute.dcm", "..\\..\\back.dcm", "C:\\drive.dcm", "x/../../../up.dcm"]
    with zipfile.ZipFile(inside / "films.zip", "w") as archive:
        for name in climbing:
            archive.writestr(name, EXAMPLE.read_bytes())
    before = set(tmp_path.rglob("*"))
    for command, *rest in (["grade", "--format", "json,sr"], ["landmarks"]):
        done = CliRunner().invoke(app, [command, str(inside / "films.zip"), "-o", str(inside / command), "-q", *rest])
        assert done.exit_code == 0, done.output
    made = set(tmp_path.rglob("*")) - before
    outside = [path for path in made if not path.is_relative_to(inside / "grade") and
               not path.is_relative_to(inside / "landmarks")]  # fmt: skip
    say(6, f"{len(climbing)} climbing names in an archive: {len(made)} files and folders made, {len(outside)} outside")
    assert outside == []
