"""What a sweep tries, and what is made of the results."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loupe.errors import InvalidUsage
from tests.support.sweeps import failure, result, sweep, sweep_of
from train.sweep.sweeps import Spread, Value, as_text, by_value, order, summarize

HIDDEN = st.lists(st.integers(1, 64), min_size=1, max_size=3).map(tuple)
VALUES: st.SearchStrategy[dict[str, list[Value]]] = st.fixed_dictionaries(
    {},
    optional={
        "learning_rate": st.lists(st.floats(1e-6, 10), min_size=1, max_size=4),
        "hidden": st.lists(HIDDEN, min_size=1, max_size=3),
        "optimizer": st.lists(
            st.sampled_from(["sgd", "adam", "adamw", "rmsprop"]), min_size=1, max_size=4
        ),
        "batch_size": st.lists(st.sampled_from([0, 1, 32]), min_size=1, max_size=3),
        "test_fraction": st.lists(st.sampled_from([0.1, 0.25, 0.4]), min_size=1, max_size=3),
    },
)


@given(values=VALUES)
def test_a_grid_has_every_combination_once_and_begins_with_the_base(
    values: dict[str, list[Value]],
) -> None:
    wanted = sweep_of(values)
    grid = wanted.grid()

    assert len(grid) == len(set(grid)) == prod(len(set(several)) for several in values.values())
    assert grid[0] == wanted.base
    for name, several in values.items():
        assert {setting.value(name) for setting in grid} == set(several)


@given(values=VALUES)
def test_one_at_a_time_has_the_base_and_what_differs_from_it_in_one_value(
    values: dict[str, list[Value]],
) -> None:
    wanted = sweep_of(values, "one-at-a-time")
    settings = wanted.settings()

    assert settings[0] == wanted.base
    assert (
        len(settings)
        == len(set(settings))
        == 1 + sum(len(set(several)) - 1 for several in values.values())
    )
    for setting in settings[1:]:
        assert sum(setting.value(name) != wanted.base.value(name) for name in values) == 1
    assert set(settings) <= set(wanted.grid())


@given(one=HIDDEN, other=HIDDEN, rates=st.tuples(st.floats(1e-9, 10), st.floats(1e-9, 10)))
def test_different_values_have_different_texts(
    one: Value, other: Value, rates: tuple[float, float]
) -> None:
    assert (as_text("hidden", one) == as_text("hidden", other)) == (one == other)
    assert (as_text("learning_rate", rates[0]) == as_text("learning_rate", rates[1])) == (
        rates[0] == rates[1]
    )


def test_what_is_not_named_is_as_the_recipe_has_it() -> None:
    base = sweep(optimizer=("sgd", "adam")).base

    assert (base.config.optimizer, base.config.hidden, base.config.epochs) == (
        "sgd",
        (32, 16),
        1000,
    )
    assert base.test_fraction is None


def test_only_what_has_several_values_is_varied() -> None:
    assert sweep(epochs=(10,), learning_rate=(0.1, 0.1), optimizer=("sgd", "adam")).varied == (
        "optimizer",
    )


@pytest.mark.parametrize(
    ("values", "text"),
    [
        pytest.param({"epochs": (5, 0)}, "epochs: ", id="no epochs"),
        pytest.param({"optimizer": ("sgd", "adm")}, "Did you mean adam?", id="unknown optimizer"),
        pytest.param(
            {"learning_rate": (0.1, float("nan"))},
            "learning rate: ",
            id="NaN",
        ),
        pytest.param(
            {"test_fraction": (0.1, 1.0)},
            "test fraction: expected a share above 0 and below 1. Received: 1.0.",
            id="all to test with",
        ),
        pytest.param({"hidden": ((8, 0),)}, "hidden: ", id="empty layer"),
    ],
)
def test_an_impossible_value_is_refused_before_anything_is_trained(
    values: dict[str, tuple[Value, ...]], text: str
) -> None:
    with pytest.raises(InvalidUsage) as refused:
        sweep_of(values).check()

    assert text in refused.value.message


def test_a_summary_has_mean_and_sample_standard_deviation() -> None:
    wanted = sweep()
    (summary,) = summarize(
        wanted, [result(wanted.base, seed, test=test) for seed, test in enumerate((0.7, 0.8, 0.9))]
    )

    assert summary.test_accuracy is not None
    assert summary.test_accuracy.mean == pytest.approx(0.8)
    assert summary.test_accuracy.deviation == pytest.approx(0.1)
    assert (summary.runs, summary.failed) == (3, 0)
    assert Spread.of([0.5]) == Spread(0.5, 0.0)


def test_the_best_is_chosen_by_validation_accuracy_where_there_is_one() -> None:
    wanted = sweep(optimizer=("sgd", "adam", "adamw"))
    sgd, adam, adamw = wanted.grid()
    results = [
        result(sgd, validation=0.8, test=0.9),
        result(adam, validation=0.9, test=0.8),
        failure(adamw),
    ]

    assert [summary.setting for summary in summarize(wanted, results)] == [adam, sgd, adamw]


def test_without_validation_the_test_accuracy_orders_and_of_equals_the_first_of_the_sweep_wins() -> (
    None
):
    wanted = sweep(optimizer=("sgd", "adam", "adamw"))
    sgd, adam, adamw = wanted.grid()
    results = [
        result(setting, validation=None, test=test)
        for setting, test in ((adamw, 0.9), (adam, 0.7), (sgd, 0.9))
    ]

    assert [summary.setting for summary in summarize(wanted, results)] == [sgd, adamw, adam]


def test_a_setting_of_which_a_training_failed_is_behind_all_others() -> None:
    wanted = sweep(optimizer=("sgd", "adam"))
    sgd, adam = wanted.grid()
    last = summarize(
        wanted, [result(adam, validation=0.9), failure(adam, 1), result(sgd, validation=0.1)]
    )[-1]

    assert (last.setting, last.runs, last.failed) == (adam, 2, 1)
    assert last.validation_accuracy == Spread(0.9, 0.0)


def test_results_by_value_are_in_rising_order_with_all_that_have_the_value() -> None:
    wanted = sweep(learning_rate=(0.1, 0.001, 0.01), optimizer=("sgd", "adam"))
    found = by_value(wanted, [result(setting) for setting in wanted.grid()], "learning_rate")

    assert list(found) == [0.001, 0.01, 0.1]
    assert [len(results) for results in found.values()] == [2, 2, 2]
    assert list(by_value(wanted, [], "optimizer")) == ["sgd", "adam"]


def test_one_at_a_time_results_by_value_are_the_base_in_all_else() -> None:
    wanted = sweep("one-at-a-time", learning_rate=(0.1, 0.01), optimizer=("sgd", "adam"))
    found = by_value(wanted, [result(setting) for setting in wanted.settings()], "optimizer")

    assert [len(results) for results in found.values()] == [1, 1]
    assert found["adam"][0].setting.config.learning_rate == 0.1


def test_layers_are_ordered_by_their_number_and_a_full_batch_is_the_largest() -> None:
    hidden: list[Value] = [(64, 64), (8, 8, 8), (128,), (16, 128)]

    assert sorted(hidden, key=lambda units: order("hidden", units)) == [
        (128,),
        (16, 128),
        (64, 64),
        (8, 8, 8),
    ]
    assert sorted([0, 32, 8], key=lambda size: order("batch_size", size)) == [8, 32, 0]
