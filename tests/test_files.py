"""Atomic writing of text and bytes, and its use for weights."""

import os

import pytest
import torch

from kneegrade.errors import UsageError
from kneegrade.files import locked_output, make_directory, new_array, remove_temporary, replacing, short_name
from kneegrade.weights import save_weights


def test_bytes_are_written_unchanged(tmp_path):
    data = b"\x00\r\n\xff"
    with replacing(tmp_path / "a.bin", "wb") as stream:
        stream.write(data)
    assert (tmp_path / "a.bin").read_bytes() == data
    assert os.listdir(tmp_path) == ["a.bin"]


def test_newlines_of_text_are_not_translated(tmp_path):
    with replacing(tmp_path / "a.txt") as stream:
        stream.write("ü\r\n\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xbc\r\n\n"


@pytest.mark.parametrize("letter", ["a", "膝", "\udcff"])
def test_a_file_can_have_the_longest_short_name(letter, tmp_path):
    path = tmp_path / f"{short_name(letter * 300, 4)}.txt"
    with replacing(path) as stream:
        stream.write("a")
    assert path.read_text(encoding="utf-8") == "a"
    assert 240 < len(os.fsencode(path.name)) <= 255


def test_short_names_keep_names_apart_and_do_not_change_names_that_fit():
    assert short_name("x" * 300 + "1") != short_name("x" * 300 + "2")
    assert short_name(f"folder/{'x' * 251}", 4) == f"folder/{'x' * 251}"
    assert [len(part) for part in short_name(f"{'y' * 400}/{'x' * 252}", 4).split("/")] == [251, 251]


def test_a_name_that_is_too_long_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"File name too long"), replacing(tmp_path / ("a" * 256)) as stream:
        stream.write("a")


def write_then_fail(path):
    with replacing(path, "wb") as stream:
        stream.write(b"part of the new content")
        raise ValueError("interrupted")


def test_a_failed_binary_write_keeps_the_old_content_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="interrupted"):
        write_then_fail(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_directory_that_cannot_be_created_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="could not be written") as caught:
        make_directory(tmp_path / "file" / "folder")
    assert caught.value.code == "not_writable"


def test_weights_leave_only_the_weights_file_and_its_sidecar(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a.weight": torch.zeros(2, 2)}, {"name": "w", "kind": "grader"})
    assert sorted(os.listdir(tmp_path)) == ["w.json", "w.safetensors"]


def test_weights_in_a_missing_directory_are_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"w\.safetensors could not be written"):
        save_weights(tmp_path / "missing" / "w.safetensors", {}, {"name": "w", "kind": "grader"})


def test_an_interrupted_text_write_keeps_the_old_content_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old", encoding="utf-8")

    def write_half():
        with replacing(path) as stream:
            stream.write("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["report.json"]


def test_new_files_have_the_usual_permissions(tmp_path):
    with replacing(tmp_path / "a") as stream:
        stream.write("a")
    (tmp_path / "b").write_text("b", encoding="utf-8")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_characters_that_utf_8_cannot_encode_become_question_marks(tmp_path):
    with replacing(tmp_path / "a") as stream:
        stream.write("film\udcff.dcm")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "film?.dcm"


def test_an_array_that_no_file_can_hold_is_a_usage_error(tmp_path):
    for number in (10**15, 10**19):
        with pytest.raises(UsageError, match="too large"):
            new_array(tmp_path / "crops.npy", "uint8", (number, 320, 320))
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_a_library_raised_from_the_systems_states_the_systems_reason(tmp_path):
    def write():
        with replacing(tmp_path / "a.dcm", "wb"):
            try:
                raise OSError(28, "No space left on device")
            except OSError as error:
                raise OSError("while writing a tag") from error

    with pytest.raises(UsageError, match=r"a\.dcm could not be written \(No space left on device\)"):
        write()


def test_temporary_files_of_killed_runs_are_removed_and_no_others(tmp_path):
    left = tmp_path / f".checkpoint.pt.{'0a' * 8}.tmp"
    for path in (left, tmp_path / ".other.tmp", tmp_path / "film.tmp"):
        path.touch()
    remove_temporary(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.tmp", "film.tmp"]


def test_a_folder_is_locked_once(tmp_path):
    pytest.importorskip("fcntl", reason="the system has no locks of folders")
    with locked_output(tmp_path), pytest.raises(UsageError, match="Another run"), locked_output(tmp_path):
        pass
    with locked_output(tmp_path):
        assert list(tmp_path.iterdir()) == []
