"""The settings of a sweep, and the statistics over its results."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loupe.errors import LoupeError
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
def test_grid_has_every_combination_once_and_starts_with_the_base(
    values: dict[str, list[Value]],
) -> None:
    request = sweep_of(values)
    grid = request.settings()

    assert len(grid) == len(set(grid)) == prod(len(set(several)) for several in values.values())
    assert grid[0] == request.base
    for name, several in values.items():
        assert {getattr(setting, name) for setting in grid} == set(several)


@given(values=VALUES)
def test_one_at_a_time_has_the_base_and_its_variations_in_one_value(
    values: dict[str, list[Value]],
) -> None:
    request = sweep_of(values, "one-at-a-time")
    settings = request.settings()

    assert settings[0] == request.base
    assert (
        len(settings)
        == len(set(settings))
        == 1 + sum(len(set(several)) - 1 for several in values.values())
    )
    for setting in settings[1:]:
        assert sum(getattr(setting, name) != getattr(request.base, name) for name in values) == 1
    assert set(settings) <= set(sweep_of(values).settings())


@given(one=HIDDEN, other=HIDDEN, rates=st.tuples(st.floats(1e-9, 10), st.floats(1e-9, 10)))
def test_different_values_have_different_texts(
    one: Value, other: Value, rates: tuple[float, float]
) -> None:
    assert (as_text("hidden", one) == as_text("hidden", other)) == (one == other)
    assert (as_text("learning_rate", rates[0]) == as_text("learning_rate", rates[1])) == (
        rates[0] == rates[1]
    )


def test_missing_values_are_those_of_the_recipe() -> None:
    base = sweep(optimizer=("sgd", "adam")).base

    assert (base.optimizer, base.hidden, base.epochs) == (
        "sgd",
        (32, 16),
        1000,
    )
    assert base.test_fraction is None


def test_parameters_with_several_values_are_varied() -> None:
    assert sweep(epochs=(10,), learning_rate=(0.1, 0.1), optimizer=("sgd", "adam")).varied == (
        "optimizer",
    )


@pytest.mark.parametrize(
    ("values", "facts"),
    [
        pytest.param({"epochs": (5, 0)}, ("epochs", "0"), id="no epochs"),
        pytest.param({"optimizer": ("sgd", "adm")}, ("optimizer", "adam"), id="unknown optimizer"),
        pytest.param({"learning_rate": (0.1, float("nan"))}, ("learning rate", "nan"), id="NaN"),
        pytest.param({"test_fraction": (0.1, 1.0)}, ("test fraction", "1.0"), id="all to test"),
        pytest.param({"hidden": ((8, 0),)}, ("hidden", "0"), id="empty layer"),
    ],
)
def test_impossible_value_is_refused(
    values: dict[str, tuple[Value, ...]], facts: tuple[str, ...]
) -> None:
    with pytest.raises(LoupeError) as refused:
        sweep_of(values)

    assert (refused.value.code, refused.value.exit_code) == ("invalid_training", 2)
    for fact in facts:
        assert fact in refused.value.message


def test_summary_has_mean_and_sample_standard_deviation() -> None:
    request = sweep()
    (summary,) = summarize(
        request,
        [result(request.base, seed, test=test) for seed, test in enumerate((0.7, 0.8, 0.9))],
    )

    assert summary.spreads["test_accuracy"].mean == pytest.approx(0.8)
    assert summary.spreads["test_accuracy"].deviation == pytest.approx(0.1)
    assert (summary.runs, summary.failed) == (3, 0)
    assert Spread.of([0.5]) == Spread(0.5, 0.0)


def test_settings_are_ranked_by_validation_accuracy() -> None:
    request = sweep(optimizer=("sgd", "adam", "adamw"))
    sgd, adam, adamw = request.settings()
    results = [
        result(sgd, validation=0.8, test=0.9),
        result(adam, validation=0.9, test=0.8),
        failure(adamw),
    ]

    assert [summary.setting for summary in summarize(request, results)] == [adam, sgd, adamw]


def test_settings_without_validation_are_ranked_by_test_accuracy_then_order() -> None:
    request = sweep(optimizer=("sgd", "adam", "adamw"))
    sgd, adam, adamw = request.settings()
    results = [
        result(setting, validation=None, test=test)
        for setting, test in ((adamw, 0.9), (adam, 0.7), (sgd, 0.9))
    ]

    assert [summary.setting for summary in summarize(request, results)] == [sgd, adamw, adam]


def test_setting_with_a_failure_is_ranked_last() -> None:
    request = sweep(optimizer=("sgd", "adam"))
    sgd, adam = request.settings()
    last = summarize(
        request, [result(adam, validation=0.9), failure(adam, 1), result(sgd, validation=0.1)]
    )[-1]

    assert (last.setting, last.runs, last.failed) == (adam, 2, 1)
    assert last.spreads["validation_accuracy"] == Spread(0.9, 0.0)


def test_results_by_value_are_in_rising_order() -> None:
    request = sweep(learning_rate=(0.1, 0.001, 0.01), optimizer=("sgd", "adam"))
    found = by_value(request, [result(setting) for setting in request.settings()], "learning_rate")

    assert list(found) == [0.001, 0.01, 0.1]
    assert [len(results) for results in found.values()] == [2, 2, 2]
    assert list(by_value(request, [], "optimizer")) == ["sgd", "adam"]


def test_one_at_a_time_results_by_value_are_as_the_base_otherwise() -> None:
    request = sweep("one-at-a-time", learning_rate=(0.1, 0.01), optimizer=("sgd", "adam"))
    found = by_value(request, [result(setting) for setting in request.settings()], "optimizer")

    assert [len(results) for results in found.values()] == [1, 1]
    assert found["adam"][0].setting.learning_rate == 0.1


def test_layers_sort_by_number_and_a_full_batch_is_the_largest() -> None:
    hidden: list[Value] = [(64, 64), (8, 8, 8), (128,), (16, 128)]

    assert sorted(hidden, key=lambda units: order("hidden", units)) == [
        (128,),
        (16, 128),
        (64, 64),
        (8, 8, 8),
    ]
    assert sorted([0, 32, 8], key=lambda size: order("batch_size", size)) == [8, 32, 0]
