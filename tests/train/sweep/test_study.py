"""A sweep's folder: the study resumes, other sweeps are refused, and the sampler chooses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from loupe.errors import Conflict, InvalidUsage, NotWritable
from tests.support.sweeps import failure, result, start_all, studying, sweep
from train.config import Setting
from train.sweep.study import (
    REQUEST_FILE,
    RESULTS_FILE,
    STUDY_FILE,
    SweepStudy,
    Training,
    read_results,
)
from train.sweep.sweeps import Result

REQUEST = sweep(
    learning_rate=(0.1, 1e-05),
    hidden=((32, 16), (8,)),
    batch_size=(0, 32),
    test_fraction=(0.25, 0.5),
    epochs=(7,),
)
SEARCH = sweep(
    "trials",
    trials=20,
    learning_rate=(0.1, 0.01, 0.001),
    hidden=((32, 16), (8,), (4, 4)),
    optimizer=("sgd", "adam"),
    seeds=1,
)


def lines(folder: Path) -> list[str]:
    return (folder / RESULTS_FILE).read_text().splitlines()


def rate(training: Training) -> float:
    return training.setting.learning_rate


def search(folder: Path, score: Callable[[Training], Result], count: int = 100) -> list[Setting]:
    """Draw up to `count` settings, and record a result for each."""
    chosen: list[Setting] = []
    with studying(folder, SEARCH) as study:
        while len(chosen) < count and (trainings := study.start_next()):
            for training in trainings:
                study.record(score(training))
                chosen.append(training.setting)
    return chosen


def test_a_grid_is_started_in_order_with_every_seed(tmp_path: Path) -> None:
    with studying(tmp_path, REQUEST) as study:
        trainings = start_all(study)

    assert [(each.setting, each.seed) for each in trainings] == [
        (setting, seed) for setting in REQUEST.settings() for seed in (0, 1)
    ]


def test_one_at_a_time_starts_the_base_and_its_variations(tmp_path: Path) -> None:
    varied = sweep("one-at-a-time", learning_rate=(0.1, 0.01), optimizer=("sgd", "adam"))
    with studying(tmp_path, varied) as study:
        trainings = start_all(study)

    assert list(dict.fromkeys(each.setting for each in trainings)) == list(varied.settings())


def test_results_and_failures_survive_a_restart(tmp_path: Path) -> None:
    with studying(tmp_path, REQUEST) as study:
        trainings = start_all(study)
        results = [result(each.setting, each.seed, test=1 / 3) for each in trainings]
        results[0] = result(trainings[0].setting, 0, validation=None)
        results[1] = failure(trainings[1].setting, 1)
        for outcome in results:
            study.record(outcome)

    with studying(tmp_path, REQUEST) as again:
        assert again.results() == tuple(results)
        assert start_all(again) == []
    assert lines(tmp_path)[0].startswith(
        "learning_rate,hidden,batch_size,test_fraction,epochs,seed,"
        "train_accuracy,validation_accuracy,"
    )
    assert lines(tmp_path)[2].endswith("0.1,32-16,full,0.25,7,1,,,,,,,The loss became NaN")
    assert lines(tmp_path)[3].startswith("0.1,32-16,full,0.5,7,0,0.9,0.5,0.333")


def test_a_restart_continues_with_the_missing_seed_of_an_interrupted_setting(
    tmp_path: Path,
) -> None:
    with studying(tmp_path, REQUEST) as study:
        first, second = study.start_next()
        study.record(result(first.setting, 0))

    with studying(tmp_path, REQUEST) as study:
        assert study.unfinished() == [second]
        study.record(result(second.setting, 1))
        assert study.unfinished() == []
        assert study.start_next()[0].setting == REQUEST.settings()[1]


def test_results_file_is_rewritten_from_the_study(tmp_path: Path) -> None:
    with studying(tmp_path, REQUEST) as study:
        for training in study.start_next():
            study.record(result(training.setting, training.seed))
    kept = lines(tmp_path)
    (tmp_path / RESULTS_FILE).write_text(kept[0] + "\n" + kept[1][:10])

    with studying(tmp_path, REQUEST):
        assert lines(tmp_path) == kept


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_journal_line_that_a_crash_truncated_is_dropped(tmp_path: Path, cut: int) -> None:
    with studying(tmp_path, REQUEST) as study:
        first, second = study.start_next()
        study.record(result(first.setting, 0))
    journal = tmp_path / STUDY_FILE
    journal.write_bytes(journal.read_bytes()[:-cut])

    with studying(tmp_path, REQUEST) as study:
        assert study.unfinished() == [first, second]
        study.record(result(first.setting, 0))
        study.record(result(second.setting, 1))
        assert len(study.results()) == 2


def test_a_crash_while_a_setting_starts_loses_no_setting(tmp_path: Path) -> None:
    with studying(tmp_path, REQUEST) as study:
        start_all(study)
    journal = (tmp_path / STUDY_FILE).read_text().splitlines(keepends=True)

    for length in range(1, len(journal), 19):
        (tmp_path / STUDY_FILE).write_text("".join(journal[:length]))
        with studying(tmp_path, REQUEST) as study:
            assert {each.setting for each in start_all(study)} == set(REQUEST.settings())


def test_results_without_a_study_are_refused_and_kept(tmp_path: Path) -> None:
    with studying(tmp_path, REQUEST) as study:
        study.record(result(study.start_next()[0].setting))
    (tmp_path / STUDY_FILE).unlink()
    kept = lines(tmp_path)
    with pytest.raises(InvalidUsage) as refused, studying(tmp_path, REQUEST):
        pass

    assert (refused.value.code, refused.value.exit_code) == ("sweep_mismatch", 2)
    assert str(tmp_path) in refused.value.message
    assert STUDY_FILE in refused.value.message
    assert lines(tmp_path) == kept
    assert not (tmp_path / STUDY_FILE).exists()


def test_results_are_read_back_as_they_were_recorded(tmp_path: Path) -> None:
    assert read_results(tmp_path, REQUEST) == ()
    with studying(tmp_path, REQUEST) as study:
        for training in study.start_next():
            study.record(result(training.setting, training.seed))

        assert read_results(tmp_path, REQUEST) == study.results()


@pytest.mark.parametrize("text", ["{}\nno JSON\n", "[]\n", "5\n", '{"op_code": 99}\n', "\xff\n"])
def test_a_damaged_study_is_refused_with_the_way_out(tmp_path: Path, text: str) -> None:
    with studying(tmp_path, REQUEST):
        (tmp_path / STUDY_FILE).write_text(text, encoding="latin-1")
    with pytest.raises(Conflict) as refused, studying(tmp_path, REQUEST):
        pass

    assert refused.value.code == "sweep_damaged"
    assert str(tmp_path / STUDY_FILE) in refused.value.message


@pytest.mark.parametrize(
    "text", ["", "no JSON", "[]", "null", '{"source": 5}', '{"values": [1]}', "\xff\xfe"]
)
def test_a_damaged_request_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / REQUEST_FILE).write_text(text, encoding="latin-1")
    with pytest.raises(Conflict) as refused, studying(tmp_path, REQUEST):
        pass

    assert (refused.value.code, refused.value.exit_code) == ("sweep_damaged", 1)


def test_another_sweep_is_refused_with_the_differences(tmp_path: Path) -> None:
    other = sweep(
        seeds=3,
        learning_rate=(0.1, 0.2),
        hidden=((32, 16), (8,)),
        batch_size=(0, 32),
        optimizer=("adam",),
    )
    with studying(tmp_path, REQUEST):
        pass
    with pytest.raises(InvalidUsage) as refused, studying(tmp_path, other):
        pass

    assert (refused.value.code, refused.value.exit_code) == ("sweep_mismatch", 2)
    for fact in (
        str(tmp_path),
        "seeds: 2 there, 3 now",
        "learning_rate: [0.1, 1e-05] there, [0.1, 0.2] now",
        "test_fraction: [0.25, 0.5] there, null now",
        'optimizer: null there, ["adam"] now',
    ):
        assert fact in refused.value.message
    for same in ("hidden", "source", "values"):
        assert same not in refused.value.message


def test_the_same_sweep_over_other_images_is_refused(tmp_path: Path) -> None:
    with studying(tmp_path, REQUEST):
        pass
    with pytest.raises(InvalidUsage) as refused, studying(tmp_path, REQUEST, "other"):
        pass

    assert refused.value.code == "sweep_mismatch"
    assert 'train: "digest" there, "other" now' in refused.value.message


def test_a_folder_with_other_files_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("chapter one")
    with pytest.raises(InvalidUsage) as refused, studying(tmp_path, REQUEST):
        pass

    assert (refused.value.code, refused.value.exit_code) == ("invalid_training", 2)
    assert str(tmp_path) in refused.value.message
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    with (
        studying(tmp_path, REQUEST),
        pytest.raises(Conflict) as refused,
        studying(tmp_path, REQUEST),
    ):
        pass

    assert refused.value.code == "sweep_running"


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    with studying(tmp_path, REQUEST) as study:
        first, _ = study.start_next()
        (tmp_path / RESULTS_FILE).unlink()
        (tmp_path / RESULTS_FILE).symlink_to("/dev/full")
        with pytest.raises(NotWritable) as refused:
            study.record(result(first.setting))

    assert refused.value.code == "file_not_writable"
    assert "No space left on device" in refused.value.message


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "sweep"
    with pytest.raises(NotWritable) as refused, studying(folder, REQUEST):
        pass

    assert str(folder) in refused.value.message


def test_the_sampler_tries_no_setting_twice_until_all_are_tried(tmp_path: Path) -> None:
    assert set(search(tmp_path, lambda each: result(each.setting))) == set(SEARCH.settings())


def test_the_choices_follow_from_the_study_alone(tmp_path: Path) -> None:
    def score(training: Training) -> Result:
        return result(training.setting, validation=rate(training) * 5)

    whole = search(tmp_path / "whole", score)
    parts = [search(tmp_path / "parts", score, count) for count in (4, 1, 100)]

    assert [setting for part in parts for setting in part] == whole
    assert json.loads((tmp_path / "parts" / REQUEST_FILE).read_text())["trials"] == 20


def test_the_sampler_prefers_validation_accuracy_whatever_the_test_accuracy(
    tmp_path: Path,
) -> None:
    wide = sweep(
        "trials",
        trials=50,
        seeds=1,
        learning_rate=(0.1, 0.01),
        bias=tuple(number / 100 for number in range(50)),
    )
    chosen = []
    with studying(tmp_path, wide) as study:
        while trainings := study.start_next():
            (training,) = trainings
            good = rate(training) == 0.01
            accuracies = (0.9, 0.1) if good else (0.1, 0.9)
            study.record(
                result(training.setting, validation=accuracies[0], test=accuracies[1]),
            )
            chosen.append(rate(training))

    assert chosen[20:].count(0.01) >= 20


def test_a_failed_training_counts_as_validation_accuracy_0(tmp_path: Path) -> None:
    failed = search(tmp_path / "failed", lambda each: failure(each.setting), 15)
    wrong = search(tmp_path / "wrong", lambda each: result(each.setting, validation=0.0), 15)

    assert failed == wrong


def test_an_empty_study_has_no_results(tmp_path: Path) -> None:
    assert SweepStudy(tmp_path / STUDY_FILE, REQUEST).results() == ()
