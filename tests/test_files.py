"""A file is whole, or it is not there; a folder is checked before the work, and not made."""

import os

import pytest

from ngd_theory.errors import InputError
from ngd_theory.files import check_output_folder, written


class InterruptedWritingError(Exception):
    pass


def test_a_file_appears_under_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "a.json"
    with written(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent  # else the rename is no rename
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_failure_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(InterruptedWritingError), written(path) as temporary:
        temporary.write_text("half of the ne")
        raise InterruptedWritingError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_failure_before_anything_was_written_leaves_nothing(tmp_path):
    with pytest.raises(InterruptedWritingError), written(tmp_path / "a.json"):
        raise InterruptedWritingError
    assert os.listdir(tmp_path) == []


def test_an_existing_folder_is_accepted(tmp_path):
    check_output_folder(tmp_path)


def test_a_folder_that_can_be_made_is_accepted_and_not_made(tmp_path):
    check_output_folder(tmp_path / "some" / "where")
    assert os.listdir(tmp_path) == []


def test_a_relative_folder_is_accepted(tmp_path, monkeypatch):
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    check_output_folder(Path("results/verify"))


@pytest.mark.parametrize("below", ["", "deeper", "deeper/still"])
def test_a_file_in_the_way_is_named(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file; choose another --out") as caught:
        check_output_folder(tmp_path / "file" / below)
    assert "\n" not in str(caught.value)


def test_a_folder_without_write_permission_is_refused(tmp_path, monkeypatch):
    # Whatever the user: root may write everywhere.
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    with pytest.raises(InputError, match="no permission"):
        check_output_folder(tmp_path / "new")
