"""Which settings Optuna's sampler would try next, by what is known of those that were tried."""

from collections.abc import Iterable
from statistics import fmean

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, create_trial

from train.sweep.sweeps import Result, Setting, Sweep, Value, as_text

REPEATS = 20  # times the sampler may come back to what is known before a setting is drawn for it

optuna.logging.set_verbosity(optuna.logging.WARNING)


def suggest(sweep: Sweep, results: Iterable[Result], count: int) -> tuple[Setting, ...]:
    """Settings that have not been tried, at most `count`.

    They follow from the results alone, so a sweep that goes on tries what it would have tried. Settings are rated by their mean
    validation accuracy; a training that failed counts as 0.
    """
    rated = _rate(results)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=len(rated)),
        storage=optuna.storages.InMemoryStorage(),
    )
    choices = {
        name: {as_text(name, value): value for value in sweep.values[name]} for name in sweep.varied
    }
    distributions: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(list(values)) for name, values in choices.items()
    }
    study.add_trials([_trial(setting, rating, distributions) for setting, rating in rated.items()])
    random = np.random.default_rng(len(rated))
    untried = [setting for setting in sweep.grid() if setting not in rated]
    found: list[Setting] = []
    while untried and len(found) < count:
        setting = (
            _ask(study, sweep, choices, distributions, untried)
            or untried[random.integers(len(untried))]
        )
        untried.remove(setting)
        found.append(setting)
    return tuple(found)


def _ask(
    study: optuna.Study,
    sweep: Sweep,
    choices: dict[str, dict[str, Value]],
    distributions: dict[str, BaseDistribution],
    untried: list[Setting],
) -> Setting | None:
    for _ in range(REPEATS):
        asked = study.ask(distributions)
        setting = sweep.setting({name: choices[name][text] for name, text in asked.params.items()})
        if setting in untried:
            return setting
    return None


def _rate(results: Iterable[Result]) -> dict[Setting, float]:
    accuracies: dict[Setting, list[float]] = {}
    for result in results:
        accuracy = result.scores.validation_accuracy if result.scores else None
        accuracies.setdefault(result.setting, []).append(accuracy or 0.0)
    return {setting: fmean(several) for setting, several in accuracies.items()}


def _trial(
    setting: Setting, rating: float, distributions: dict[str, BaseDistribution]
) -> FrozenTrial:
    params = {name: as_text(name, setting.value(name)) for name in distributions}
    return create_trial(value=rating, params=params, distributions=distributions)
