"""`loupe data show`: counts on the terminal, samples in a file, and what was left out."""

from pathlib import Path

from PIL import Image

from tests.pictures import sort_into_folders
from tests.programs import run


def test_a_folder_is_shown_with_counts_samples_and_what_was_left_out(tmp_path: Path) -> None:
    folder = sort_into_folders(tmp_path / "pets", {"cat": 10, "dog": 20})
    (folder / "cat" / "notes.txt").write_text("purrs")
    shown = run("data", "show", f"folder:{folder}", "--look", "ink", "--out", tmp_path / "sheet.png")

    assert shown.returncode == 0, shown.stderr
    lines = [line.strip("│┃ ").split() for line in shown.stdout.splitlines()]
    assert ["pets:", "look", "ink,", "28", "×", "28", "pixels"] in lines
    assert ["cat", "│", "8", "│", "2", "│", "10"] in lines
    assert ["dog", "│", "16", "│", "4", "│", "20"] in lines
    assert ["all", "classes", "│", "24", "│", "6", "│", "30"] in lines
    assert shown.stdout.endswith(f"samples: {tmp_path}/sheet.png\n")
    assert shown.stderr.splitlines()[-2:] == [
        "left out, as they cannot be read: 1",
        "  cat/notes.txt: Expected a whole PNG, JPEG, WebP, BMP, GIF or TIFF image. Received: text starting 'purrs'.",
    ]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"


def test_a_data_set_that_is_none_is_one_line_and_wrong_use(tmp_path: Path) -> None:
    ended = run("data", "show", "mnits", "--out", tmp_path / "sheet.png")

    assert ended.returncode == 2
    assert ended.stderr.strip() == (
        "error: unknown_dataset: There is no data set 'mnits'. Did you mean mnist? "
        "Expected one of fashion-mnist, mnist, digits, digits-8x8, idx:DIR, folder:DIR."
    )
    assert not (tmp_path / "sheet.png").exists()


def test_a_folder_that_cannot_be_trained_on_is_one_line_and_a_failure(tmp_path: Path) -> None:
    ended = run("data", "show", f"folder:{sort_into_folders(tmp_path / 'pets', {'cat': 10})}")

    assert ended.returncode == 1
    assert ended.stderr.strip().startswith("error: one_class: Expected images of at least two classes in ")
    assert "Traceback" not in ended.stderr
