"""Optimizers and learning-rate schedules, by the names in `train.config`."""

from functools import partial

import keras

from train.config import Optimizer, TrainConfig

WARM_UP = 0.2  # fraction of the steps in which a one-cycle schedule rises
INITIAL_RATE = 0.05  # of the highest learning rate, at the start of a one-cycle schedule

OPTIMIZERS: dict[Optimizer, type[keras.Optimizer] | partial[keras.Optimizer]] = {
    "sgd": partial(keras.optimizers.SGD, momentum=0.0),
    "adam": keras.optimizers.Adam,
    "amsgrad": partial(keras.optimizers.Adam, amsgrad=True),
    "adamw": keras.optimizers.AdamW,
    "adagrad": keras.optimizers.Adagrad,
    "adadelta": keras.optimizers.Adadelta,
    "rmsprop": keras.optimizers.RMSprop,
}


def make_optimizer(config: TrainConfig, steps: int) -> keras.Optimizer:
    """Return the optimizer of a configuration, for a training of `steps` steps."""
    optimizer = OPTIMIZERS[config.optimizer](learning_rate(config, steps))
    # Set here, because AdamW's constructor does not accept `None`.
    optimizer.weight_decay = config.weight_decay or None
    optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    return optimizer


def learning_rate(
    config: TrainConfig, steps: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Return a constant, or a schedule over `steps` steps."""
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
    warm_up = round(steps * WARM_UP)
    return keras.optimizers.schedules.CosineDecay(
        config.learning_rate * INITIAL_RATE,
        steps - warm_up,
        warmup_target=config.learning_rate,
        warmup_steps=warm_up,
    )
