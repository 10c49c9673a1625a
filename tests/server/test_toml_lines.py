import pytest

from kneegrade.errors import UsageError
from kneegrade.server.toml_lines import MAX_BYTES, line_of, read_toml

TEXT = '''# settings
a.b = 1
[one]   # a comment
x = """
[not_a_section]
y = 2
"""

# about y
y = [
  1,
  2,
]
[[many]]
z = 1
[[many]]
z = { deep = [10, { deeper = true }] }
"quoted key" = 1
'''


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (["a"], 2), (["a", "b"], 2), (["one"], 3), (["one", "x"], 4), (["one", "y"], 10), (["one", "y", 1], 10),
        (["many", 0], 14), (["many", 0, "z"], 15), (["many", 1], 16), (["many", 1, "z", "deep", 1, "deeper"], 17),
        (["many", 1, "quoted key"], 18), (["one", "missing"], 3), (["none"], 1), ([], 1),
    ],
)  # fmt: skip
def test_the_line_of_a_key(keys, line):
    assert line_of(TEXT, keys) == line


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a = ", "not valid TOML"), (b"a = '\xff'", "not UTF-8"), (b"#" * (MAX_BYTES + 1), "more than")],
)
def test_a_file_that_is_not_toml_is_refused(content, message, tmp_path):
    (tmp_path / "serve.toml").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_toml(tmp_path / "serve.toml")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read_toml(tmp_path / "serve.toml")
