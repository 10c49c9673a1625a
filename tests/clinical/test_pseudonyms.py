import os
import stat
import threading

import pytest

from kneegrade.clinical.pseudonyms import SECRET_BYTES, Pseudonyms, read_secret
from kneegrade.errors import UsageError


def test_the_same_secret_gives_the_same_pseudonyms_and_another_secret_others():
    one, same, other = Pseudonyms(b"a" * 32), Pseudonyms(b"a" * 32), Pseudonyms(b"b" * 32)
    assert one.name("patient", "123") == same.name("patient", "123") != other.name("patient", "123")
    assert one.uid("1.2.3") == same.uid("1.2.3") != other.uid("1.2.3")


def test_the_kind_separates_pseudonyms_of_the_same_value():
    pseudonyms = Pseudonyms(b"a" * 32)
    assert pseudonyms.name("patient", "123") != pseudonyms.name("film", "123")


def test_a_known_value():
    """HMAC-SHA-256 as Python's hmac and openssl compute it; a change would tear patients apart."""
    assert Pseudonyms(b"k" * 32).name("patient", "hospital\x00123") == "KG-AC65F6FB4C9DF7B7"


def test_uids_are_valid_uuids_of_version_8_below_2_25():
    root, number = Pseudonyms(b"a" * 32).uid("1.2.840.1").rsplit(".", 1)
    assert root == "2.25"
    digits = f"{int(number):032x}"
    assert digits[12] == "8"
    assert digits[16] in "89ab"


def test_a_missing_secret_is_created_private_and_kept(tmp_path):
    path = tmp_path / "secret"
    secret = read_secret(path)
    assert len(secret) == SECRET_BYTES
    assert read_secret(path) == secret
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_secret_that_another_process_is_writing_is_waited_for(tmp_path):
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    text = SECRET_BYTES * "ab"
    threading.Timer(0.2, path.write_text, [text]).start()
    assert read_secret(path) == bytes.fromhex(text)


def test_a_secret_that_others_may_read_is_refused(tmp_path):
    path = tmp_path / "secret"
    read_secret(path)
    path.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        read_secret(path)


@pytest.mark.parametrize("content", ["", "abcd", "not hexadecimal " * 8, "ä" * 64])
def test_a_damaged_secret_is_refused_and_not_replaced(tmp_path, content):
    path = tmp_path / "secret"
    path.write_text(content, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(UsageError, match="secret"):
        read_secret(path)
    assert path.read_text(encoding="utf-8") == content


def test_a_secret_that_is_a_pipe_or_a_folder_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "pipe", tmp_path / "folder", tmp_path):
        with pytest.raises(UsageError, match="is not a regular file"):
            read_secret(path)


def test_a_secret_in_a_missing_folder_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="cannot be read or created"):
        read_secret(tmp_path / "missing" / "secret")


def test_a_short_secret_is_refused():
    with pytest.raises(UsageError, match="31 bytes"):
        Pseudonyms(b"a" * 31)
