"""A sweep's folder: written line by line, read back, and refused where it holds something else."""

from pathlib import Path

import pytest

from loupe.old_errors.train import FileNotWritable, InvalidTraining, SweepDamaged, SweepMismatch
from tests.support.sweeps import failure, result, sweep
from train.sweep.folder import RESULTS_FILE, SweepFolder

WANTED = sweep(
    learning_rate=(0.1, 1e-05),
    hidden=((32, 16), (8,)),
    batch_size=(0, 32),
    test_fraction=(0.25, 0.5),
    epochs=(7,),
)


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder.open(tmp_path / "sweep", WANTED, "digest")


def test_results_are_read_back_as_they_were_written(folder: SweepFolder) -> None:
    results = tuple(result(setting, seed, test=1 / 3) for seed, setting in enumerate(WANTED.grid()))
    for one in results:
        folder.append(one)

    assert folder.results() == results
    lines = (folder.folder / RESULTS_FILE).read_text().splitlines()
    assert lines[0].startswith(
        "learning_rate,hidden,batch_size,test_fraction,epochs,seed,train_accuracy,validation_accuracy,"
    )
    assert lines[1].startswith("0.1,32-16,full,0.25,7,0,0.9,0.5,0.333")


def test_a_failure_is_a_line_with_its_reason(folder: SweepFolder) -> None:
    lost = failure(WANTED.base, 1)
    folder.append(lost)

    assert folder.results() == (lost,)
    assert (
        (folder.folder / RESULTS_FILE)
        .read_text()
        .endswith("0.1,32-16,full,0.25,7,1,,,,,,,The loss became NaN\n")
    )


def test_without_a_validation_split_its_cell_is_empty(folder: SweepFolder) -> None:
    folder.append(result(WANTED.base, validation=None))

    scores = folder.results()[0].scores
    assert scores is not None
    assert scores.validation_accuracy is None


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_that_a_crash_cut_short_is_taken_away(folder: SweepFolder, cut: int) -> None:
    whole, torn, again = (result(WANTED.base, seed) for seed in range(3))
    folder.append(whole)
    folder.append(torn)
    file = folder.folder / RESULTS_FILE
    file.write_bytes(file.read_bytes()[:-cut])

    assert folder.results() == (whole,)
    folder.append(again)
    assert folder.results() == (whole, again)


def test_headings_that_a_crash_cut_short_are_written_again(folder: SweepFolder) -> None:
    (folder.folder / RESULTS_FILE).write_text("learning_ra")

    assert folder.results() == ()
    folder.append(result(WANTED.base))
    assert folder.results() == (result(WANTED.base),)


def test_the_same_sweep_goes_on_in_its_folder(folder: SweepFolder) -> None:
    folder.append(result(WANTED.base))

    assert SweepFolder.open(folder.folder, WANTED, "digest").results() == (result(WANTED.base),)


def test_another_sweep_is_told_what_differs(folder: SweepFolder) -> None:
    other = sweep(
        seeds=3,
        learning_rate=(0.1, 0.2),
        hidden=((32, 16), (8,)),
        batch_size=(0, 32),
        optimizer=("adam",),
    )
    with pytest.raises(SweepMismatch) as refused:
        SweepFolder.open(folder.folder, other, "digest")

    assert refused.value.message == (
        f"Expected the sweep that was begun in '{folder.folder}', or a new folder. Received another: "
        "seeds: 2 there, 3 asked for; learning_rate: [0.1, 1e-05] there, [0.1, 0.2] asked for; "
        "test_fraction: [0.25, 0.5] there, nothing asked for; epochs: [7] there, nothing asked for; "
        'optimizer: nothing there, ["adam"] asked for. '
        "Ask for the same again to go on with it, or choose another --out."
    )
    assert refused.value.exit_code == 2


def test_the_same_sweep_over_other_images_is_another(folder: SweepFolder) -> None:
    with pytest.raises(SweepMismatch, match="data: digest there, other asked for"):
        SweepFolder.open(folder.folder, WANTED, "other")


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("chapter one")
    with pytest.raises(
        InvalidTraining, match="--out: expected a new or empty folder, or one with the same sweep"
    ):
        SweepFolder.open(tmp_path, WANTED, "digest")

    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("line", "number"),
    [
        pytest.param(
            "0.7,32-16,full,0.25,7,0,0.9,0.5,0.5,0.25,10,1.5,", 2, id="a value that is not tried"
        ),
        pytest.param(
            "0.1,32-16,full,0.25,7,x,0.9,0.5,0.5,0.25,10,1.5,", 2, id="a seed that is none"
        ),
        pytest.param("0.1,32-16", 2, id="too few cells"),
    ],
)
def test_a_line_of_something_else_is_named(folder: SweepFolder, line: str, number: int) -> None:
    folder.append(result(WANTED.base))
    file = folder.folder / RESULTS_FILE
    headings = file.read_text().splitlines()[0]
    file.write_text(f"{headings}\n{line}\n")
    with pytest.raises(SweepDamaged) as refused:
        folder.results()

    assert refused.value.message == (
        f"Expected a training of this sweep in line {number} of '{file}'. Received: {line}. "
        "Take the line away; what it was about is trained again."
    )


def test_a_full_disk_is_told_in_one_line(folder: SweepFolder) -> None:
    (folder.folder / RESULTS_FILE).symlink_to("/dev/full")
    with pytest.raises(
        FileNotWritable,
        match=r"results\.csv'. Received: .*No space left on device; the same command",
    ):
        folder.append(result(WANTED.base))


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileNotWritable, match=r"sweep\.json'. Received: .*Not a directory"):
        SweepFolder.open(tmp_path / "file" / "sweep", WANTED, "digest")
