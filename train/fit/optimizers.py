"""Optimisers and learning-rate schedules, by the names of `train.config`."""

from functools import partial

import keras

from train.config import Optimizer, TrainConfig

WARM_UP = 0.2  # share of the steps in which a one-cycle schedule rises
FIRST_RATE = 0.05  # of the highest learning rate, where a one-cycle schedule begins

OPTIMIZERS: dict[Optimizer, type[keras.Optimizer] | partial[keras.Optimizer]] = {
    "sgd": partial(keras.optimizers.SGD, momentum=0.0),
    "adam": keras.optimizers.Adam,
    "amsgrad": partial(keras.optimizers.Adam, amsgrad=True),
    "adamw": keras.optimizers.AdamW,
    "adagrad": keras.optimizers.Adagrad,
    "adadelta": keras.optimizers.Adadelta,
    "rmsprop": keras.optimizers.RMSprop,
}


def optimizer(config: TrainConfig, steps: int) -> keras.Optimizer:
    """The optimiser of a configuration for a training of so many steps."""
    rate = learning_rate(config, steps)
    made = OPTIMIZERS[config.optimizer](rate)
    made.weight_decay = (
        config.weight_decay or None
    )  # set here, for AdamW alone has one of its own and takes no None
    made.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    return made


def learning_rate(
    config: TrainConfig, steps: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """A number, or a schedule over so many steps."""
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
    warm_up = round(steps * WARM_UP)
    return keras.optimizers.schedules.CosineDecay(
        config.learning_rate * FIRST_RATE,
        steps - warm_up,
        warmup_target=config.learning_rate,
        warmup_steps=warm_up,
    )
