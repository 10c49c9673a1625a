from kneegrade.evaluation.table_formats import Table, comma_separated, latex, markdown


def test_the_formats_keep_the_cells_and_escape_special_characters():
    table = Table("t", "5 % & more", ("a|b", "κ_1"), (("x|y", "50 %"), None, ("−0.1", "τ ≥ 1")), ("A note.",))
    assert r"| x\|y | 50 % |" in markdown(table)
    assert comma_separated(table).splitlines() == ["a|b,κ_1", "x|y,50 %", "−0.1,τ ≥ 1"]
    text = latex(table)
    assert r"5 \% \& more" in text
    assert r"$\kappa$\_1" in text
    assert text.count(r"\midrule") == 2
