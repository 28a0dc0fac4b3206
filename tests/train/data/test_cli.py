"""`loupe data show`: counts on the terminal, samples in a file, and what was left out."""

from pathlib import Path

from PIL import Image

from tests.support.command import Loupe
from tests.support.pictures import sort_into_folders


def test_a_folder_is_shown_with_counts_samples_and_what_was_left_out(
    loupe: Loupe, tmp_path: Path
) -> None:
    folder = sort_into_folders(tmp_path / "pets", {"cat": 10, "dog": 20})
    (folder / "cat" / "notes.txt").write_text("purrs")
    shown = loupe(
        "data", "show", f"folder:{folder}", "--look", "ink", "--out", tmp_path / "sheet.png"
    )

    assert shown.code == 0, shown.err
    lines = [line.strip("│┃ ").split() for line in shown.out.splitlines()]
    assert ["pets:", "look", "ink,", "28", "×", "28", "pixels"] in lines
    assert ["cat", "│", "8", "│", "2", "│", "10"] in lines
    assert ["dog", "│", "16", "│", "4", "│", "20"] in lines
    assert ["all", "classes", "│", "24", "│", "6", "│", "30"] in lines
    assert shown.out.endswith(f"samples: {tmp_path}/sheet.png\n")
    assert shown.err.splitlines()[-2:] == [
        "left out, as they cannot be read: 1",
        "  cat/notes.txt: Not a PNG, JPEG, WebP, BMP, GIF or TIFF image, but text starting 'purrs'.",
    ]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"


def test_a_data_set_that_is_none_is_one_line_and_wrong_use(loupe: Loupe, tmp_path: Path) -> None:
    ended = loupe("data", "show", "mnits", "--out", tmp_path / "sheet.png")

    assert ended.code == 2
    assert ended.err.strip() == (
        "error: unknown_dataset: There is no data set 'mnits'. Did you mean mnist? "
        "Expected one of fashion-mnist, mnist, digits, digits-8x8, idx:DIR, folder:DIR."
    )
    assert not (tmp_path / "sheet.png").exists()


def test_a_folder_that_cannot_be_trained_on_is_one_line_and_a_failure(
    loupe: Loupe, tmp_path: Path
) -> None:
    ended = loupe("data", "show", f"folder:{sort_into_folders(tmp_path / 'pets', {'cat': 10})}")

    assert ended.code == 1
    assert ended.err.strip().startswith(
        "error: one_class: Expected images of at least two classes in "
    )
    assert "Traceback" not in ended.err
