"""What Optuna's sampler is let choose, and by what it does."""

from tests.support.sweeps import failure, result, sweep
from train.sweep.search import suggest

WANTED = sweep(
    "trials",
    trials=20,
    learning_rate=(0.1, 0.01, 0.001),
    hidden=((32, 16), (8,), (4, 4)),
    optimizer=("sgd", "adam"),
)


def test_no_setting_is_tried_twice_until_all_are() -> None:
    grid = WANTED.grid()
    results = [result(setting) for setting in grid[:10]]

    assert set(suggest(WANTED, results, 100)) == set(grid[10:])
    assert suggest(WANTED, [result(setting) for setting in grid], 1) == ()


def test_what_is_tried_next_follows_from_the_results_alone() -> None:
    results = [
        result(setting, validation=place / 10) for place, setting in enumerate(WANTED.grid()[:6])
    ]

    assert suggest(WANTED, results, 3) == suggest(WANTED, results, 3)


def test_the_sampler_goes_where_the_validation_accuracy_is_higher_whatever_the_test_accuracy_is() -> (
    None
):
    wide = sweep(
        "trials", learning_rate=(0.1, 0.01), bias=tuple(number / 100 for number in range(50))
    )
    results = [
        result(setting, validation=0.9, test=0.1)
        if setting.config.learning_rate == 0.01
        else result(setting, validation=0.1, test=0.9)
        for setting in wide.grid()[:20] + wide.grid()[50:70]
    ]
    next_rates = []
    for _ in range(10):
        (setting,) = suggest(wide, results, 1)
        next_rates.append(setting.config.learning_rate)
        results.append(
            result(setting, validation=0.9 if setting.config.learning_rate == 0.01 else 0.1)
        )

    assert next_rates.count(0.01) >= 7


def test_a_setting_that_failed_counts_as_always_wrong() -> None:
    grid = WANTED.grid()
    failed = [failure(setting) for setting in grid[:5]]
    wrong = [result(setting, validation=0.0) for setting in grid[:5]]

    assert suggest(WANTED, failed, 5) == suggest(WANTED, wrong, 5)
