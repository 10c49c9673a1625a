import numpy as np

from kneegrade.evaluation.paper_values import BY_GRADE, LABELS, SUMMARY
from kneegrade.training.grid import SCALES, recipe_folder
from kneegrade.training.recipe_file import load_recipe


def test_the_papers_averages_are_the_means_of_their_columns():
    """Except the kappas of ResNet-18 and ResNet-34, which look swapped."""
    off = {
        (metric, name): abs(np.mean(values[1:7]) - values[7])
        for metric, rows in BY_GRADE.items()
        for name, values in rows.items()
    }
    wrong = {key for key, value in off.items() if value > 0.0012}
    assert wrong == {("kappa", "resnet18"), ("kappa", "resnet34")}
    assert SUMMARY["proposed"] == tuple(
        BY_GRADE[metric]["proposed"][column] for column in (0, 7) for metric in ("accuracy", "rmse")
    )


def test_every_row_of_the_tables_has_a_recipe_of_its_name():
    for name in LABELS:
        assert load_recipe(recipe_folder() / f"{name}.yaml").name == name
    for scale in SCALES.values():
        for name in scale.recipes:
            assert load_recipe(recipe_folder() / f"{name}.yaml").name == name
