import hashlib
import os
import stat

import pytest

from kneegrade.errors import UsageError
from kneegrade.server.rest.tokens import TokenFile, add_token, read_tokens


def test_a_token_is_known_by_its_name_and_scopes_and_is_not_in_the_file(tmp_path):
    path = tmp_path / "tokens"
    first, second = add_token(path, "ward", ["send", "read"]), add_token(path, "dr.doe", ["review"])
    tokens = TokenFile(path)
    caller = tokens.caller(first)
    assert (caller.name, caller.scopes) == ("ward", {"send", "read"})
    assert tokens.caller(second).name == "dr.doe"
    assert first not in path.read_text()
    assert hashlib.sha256(first.encode()).hexdigest() in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for wrong in ("", first[:-1], first + "x", hashlib.sha256(first.encode()).hexdigest(), "\udc80"):
        assert tokens.caller(wrong) is None


def test_a_removed_line_withdraws_its_token_and_a_new_line_counts_at_once(tmp_path):
    path = tmp_path / "tokens"
    first = add_token(path, "a", ["send"])
    tokens = TokenFile(path)
    second = add_token(path, "b", ["read"])
    assert tokens.caller(second).name == "b"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("a ")))
    assert tokens.caller(first) is None
    assert tokens.caller(second).name == "b"


def test_a_file_that_becomes_damaged_or_disappears_lets_nobody_in(tmp_path):
    path = tmp_path / "tokens"
    token = add_token(path, "a", ["send"])
    tokens, good = TokenFile(path), path.read_bytes()
    path.write_text("a send\n")
    assert tokens.caller(token) is None
    path.write_bytes(good)
    assert tokens.caller(token).name == "a"
    path.unlink()
    assert tokens.caller(token) is None


@pytest.mark.parametrize(
    "line", ["a send", "a send xyz", f"a write {'0' * 64}", f"a b send {'0' * 64}", f"ä send {'0' * 64}"]
)
def test_a_wrong_line_is_refused_by_its_number_but_not_shown(line, tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"# comment\n\n{line}\n", encoding="utf-8")
    with pytest.raises(UsageError, match="tokens, line 3: expected") as error:
        read_tokens(path)
    assert line not in error.value.message


@pytest.mark.parametrize(
    ("name", "scopes", "message"),
    [
        ("a b", ["send"], "letters"),
        ("x" * 65, ["send"], "letters"),
        ("a", ["write"], "send, read"),
        ("a", [], "scopes"),
    ],
)
def test_a_wrong_name_or_scope_makes_no_token(name, scopes, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        add_token(tmp_path / "tokens", name, scopes)
    assert not (tmp_path / "tokens").exists()


def test_a_name_has_one_token_and_the_file_keeps_its_permissions(tmp_path):
    path = tmp_path / "tokens"
    add_token(path, "a", ["send"])
    os.chmod(path, 0o640)
    with pytest.raises(UsageError, match="already"):
        add_token(path, "a", ["read"])
    add_token(path, "b", ["read"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
