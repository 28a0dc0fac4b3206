"""`loupe data show`: counts on the terminal, samples in a file, and unreadable files."""

from pathlib import Path

from PIL import Image

from tests.support.command import Loupe
from tests.support.pictures import sort_into_folders


def test_a_folder_is_shown_with_counts_samples_and_unreadable_files(
    loupe: Loupe, tmp_path: Path
) -> None:
    folder = sort_into_folders(tmp_path / "pets", {"cat": 10, "dog": 20})
    (folder / "cat" / "notes.txt").write_text("purrs")
    (folder / "cat" / "notes.png").write_text("purrs")
    shown = loupe(
        "data", "show", f"folder:{folder}", "--look", "ink", "--out", tmp_path / "sheet.png"
    )

    assert shown.code == 0, shown.err
    lines = [line.split() for line in shown.out.splitlines()]
    assert ["pets:", "look", "ink,", "28", "×", "28", "pixels"] in lines
    assert ["cat", "8", "2", "10"] in lines
    assert ["dog", "16", "4", "20"] in lines
    assert ["all", "classes", "24", "6", "30"] in lines
    assert shown.out.endswith(f"samples: {tmp_path}/sheet.png\n")
    skipped, count, file = shown.err.splitlines()[-3:]
    assert ".txt 1" in skipped
    assert count.endswith(": 1")
    assert "cat/notes.png: " in file
    assert "'purrs'" in file
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"


def test_an_unknown_data_set_prints_one_line_and_exits_with_2(loupe: Loupe, tmp_path: Path) -> None:
    ended = loupe("data", "show", "mnits", "--out", tmp_path / "sheet.png")

    assert ended.code == 2
    assert ended.err.startswith("error: unknown_dataset: ")
    assert len(ended.err.splitlines()) == 1
    assert "Did you mean mnist?" in ended.err
    assert not (tmp_path / "sheet.png").exists()


def test_an_invalid_folder_prints_one_line_and_exits_with_1(loupe: Loupe, tmp_path: Path) -> None:
    ended = loupe("data", "show", f"folder:{sort_into_folders(tmp_path / 'pets', {'cat': 10})}")

    assert ended.code == 1
    assert "error: one_class: " in ended.err
    assert "Traceback" not in ended.err
