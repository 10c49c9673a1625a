import shutil
import subprocess

import pytest
from simulated_runs import ACCURACY, read_csv, write_run

from kneegrade.errors import UsageError
from kneegrade.evaluation.result_tables import write_tables
from kneegrade.imaging.own_pictures import is_own_picture


def test_every_table_is_written_in_three_formats_and_both_figures_as_png(written):
    for slug in ("table1", "table2", "table3", "table4", "supplement1", "supplement2", "beyond"):
        assert {path.suffix for path in written.glob(f"{slug}.*")} == {".md", ".csv", ".tex"}
    for number in (1, 2):
        assert is_own_picture((written / f"supplement-figure{number}.png").read_bytes()[:132])


def test_all_runs_are_in_the_list(written):
    rows = read_csv(written / "all_runs.csv")[1:]
    assert {row[0] for row in rows} == {f"{name}-seed{seed}" for name in ACCURACY for seed in (0, 1)}


def test_runs_scored_on_other_knees_are_not_mixed(runs, tmp_path):
    shutil.copytree(runs / "kpn-seed0", tmp_path / "kpn-seed0")
    write_run(tmp_path / "other-seed0", "cl", 0.5, 0, number=80)
    with pytest.raises(UsageError, match="other knees"):
        write_tables([tmp_path], tmp_path / "tables", replicates=10)
    shutil.rmtree(tmp_path / "other-seed0")
    write_run(tmp_path / "kpn-seed1", "kpn", 0.5, 0)
    recipe = (tmp_path / "kpn-seed1" / "recipe.yaml").read_text().replace("roi_px: 320", "roi_px: 128")
    (tmp_path / "kpn-seed1" / "recipe.yaml").write_text(recipe)
    with pytest.raises(UsageError, match="more than the seed"):
        write_tables([tmp_path], tmp_path / "tables", replicates=10)
    with pytest.raises(UsageError, match="No finished run"):
        write_tables([tmp_path / "nothing"], tmp_path / "tables")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX")
def test_the_latex_tables_compile(written, tmp_path):
    inputs = "".join(rf"\input{{{path}}}" for path in sorted(written.glob("*.tex")))
    (tmp_path / "all.tex").write_text(
        r"\documentclass{article}\usepackage[landscape]{geometry}\usepackage{booktabs,amssymb}\begin{document}\tiny"
        + inputs + r"\end{document}"
    )  # fmt: skip
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"], cwd=tmp_path, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
