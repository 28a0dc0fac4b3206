"""The pictures in a folder: content decides, links are followed once, and the rest is counted."""

import glob
import os
import sys
from pathlib import Path

import pytest

from loupe.images.folder import pictures
from loupe.images.selection import Skipped
from tests.support.files import odd_folder


def names(folder: Path, pattern: str = "") -> list[str]:
    return [file.name for file in pictures(folder, Skipped(), pattern=pattern)]


def touch(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


def test_every_file_is_a_picture_or_counted(tmp_path: Path) -> None:
    expected = odd_folder.write(tmp_path / "images")
    skipped = Skipped()

    found = [file.name for file in pictures(tmp_path / "images", skipped)]

    assert set(found) == expected.read | expected.failed
    assert len(found) == len(set(found))
    assert skipped.files == expected.skipped


def test_files_come_before_subfolders_and_linked_folders_last(tmp_path: Path) -> None:
    touch(
        tmp_path / "x", "b.png", "a.png", "z/2.png", "z/1.png", "c/d/3.png", "a.b/1.png", "a/1.png"
    )
    touch(tmp_path / "y", "1.png", "below/2.png")
    (tmp_path / "x" / "0").symlink_to(tmp_path / "y")

    assert names(tmp_path / "x") == [
        *("a.png", "b.png", "a/1.png", "a.b/1.png", "c/d/3.png", "z/1.png", "z/2.png"),
        *("0/1.png", "0/below/2.png"),
    ]


def test_two_links_to_one_folder_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "y", "below/1.png")
    (tmp_path / "x").mkdir()
    for name, target in {"a": "y", "b": "y", "c": "y/below"}.items():
        (tmp_path / "x" / name).symlink_to(tmp_path / target)
    skipped = Skipped()

    assert [file.name for file in pictures(tmp_path / "x", skipped)] == ["a/below/1.png"]
    assert skipped.files == {"link_loop": {"none": 2}}


def test_link_to_a_hidden_folder_is_followed(tmp_path: Path) -> None:
    touch(tmp_path, ".store/cats/1.png")
    (tmp_path / "cats").symlink_to(".store/cats")

    assert names(tmp_path) == ["cats/1.png"]


@pytest.mark.parametrize(
    "pattern",
    [
        *("*", "**", "**/*", "*/*", "**/*.png", "a/**/*.png", "[ab]/?.png", "a*/**/c/*", "**/c/**"),
        *("**/.h/*.png", ".h/*", "b/.*", "a/c/1.png", "nothing/*", "*/", "**/**/1.png", "A/*"),
    ],
)
def test_pattern_matches_what_glob_matches(tmp_path: Path, pattern: str) -> None:
    touch(tmp_path, "1.png", "a/1.png", "a/2.PNG", "a/c/1.png", "ab/x/c/2.png", "b/c/c/1.png")
    touch(tmp_path, ".h/1.png", "a/.h/3.png", "b/.1.png", "b/12.png", "b/c.png/1.png")

    found = set(glob.glob(pattern, root_dir=tmp_path, recursive=True))  # noqa: PTH207
    visible = [path for path in found if not any(part[:1] == "." for part in path.split("/"))]

    assert names(tmp_path, pattern) == sorted(
        path for path in visible if (tmp_path / path).is_file()
    )


def test_pattern_follows_no_loop(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "a/b/2.png")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "a" / "b" / "self").symlink_to(".")

    assert names(tmp_path, "**/*.png") == ["a/1.png", "a/b/2.png"]


def test_walk_goes_deeper_than_python_can_recurse(tmp_path: Path) -> None:
    depth = sys.getrecursionlimit() + 100
    made = [Path(tmp_path, "d/" * (number + 1)) for number in range(depth)]
    for folder in made:
        folder.mkdir()
    (made[-1] / "1.png").touch()

    assert names(tmp_path) == ["d/" * depth + "1.png"]
    (made[-1] / "1.png").unlink()
    for folder in reversed(made):  # pytest cannot remove so deep a folder
        folder.rmdir()


def test_folder_that_cannot_be_listed_is_counted_below_and_raised_at_the_top(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "closed/1.png", "open/2.png")
    scandir = os.scandir

    def refuse(path: str) -> object:  # whoever runs the tests may list every folder
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    skipped = Skipped()

    assert [file.name for file in pictures(tmp_path, skipped)] == ["open/2.png"]
    assert skipped.files == {"unreadable": {"none": 1}}
    with pytest.raises(PermissionError):
        names(tmp_path / "closed")


def test_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        names(tmp_path / "nowhere")


def test_counts_take_little_memory_however_many_suffixes_there_are() -> None:
    skipped = Skipped()
    for number in range(10_000):
        skipped.add("not_a_picture", f"a.{number}")
    skipped.add("not_a_picture", "a." + "x" * 1000)
    skipped.add("hidden", ".a.\udcff")

    assert sum(skipped.files["not_a_picture"].values()) == 10_001
    assert len(skipped.files["not_a_picture"]) < 30
    assert skipped.files["hidden"] == {"other": 1}
