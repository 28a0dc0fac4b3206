"""The classics: what five tutorials for beginners train, with which settings, and what they report.

All their figures stand here and nowhere else. What we reach with the same settings is trained, never written down.
"""

from dataclasses import replace

from train.config import FULL_BATCH, TrainConfig, recipe
from train.sweep.sweeps import TEST_FRACTION, Value
from train.tutorials.plan import Classic, Default, Factor, Plan, Study, Trial, Tutorial

# None of the tutorials holds images back from training, and each keeps the weights of its last epoch.
SOFTMAX = TrainConfig(
    "softmax", batch_size=100, epochs=33, validation_fraction=0, initializer="zeros"
)  # 19,800 steps
MLP_512 = TrainConfig(
    "mlp-512", (512, 512), "rmsprop", batch_size=128, epochs=20, validation_fraction=0
)
# Keras's Adadelta had a learning rate of 1 then; with today's 0.001 it does not train.
CNN = TrainConfig(
    "cnn-classic", (), "adadelta", 1.0, batch_size=128, epochs=12, validation_fraction=0
)
CLOTHES = TrainConfig("mlp", (128,), batch_size=32, validation_fraction=0)
DIGITS: dict[str, Value] = {
    "hidden": (32, 16),
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "schedule": "constant",
    "batch_size": FULL_BATCH,
    "epochs": 1001,
    "validation_fraction": 0.0,
    "initializer": "glorot-uniform",
    "bias": 0.01,
    TEST_FRACTION: 0.25,
}
DIGITS_IMAGES = 1347  # that are left to train on


def _mnist(config: TrainConfig, *, compare_batches: bool = False) -> Trial:
    return Trial(dataset="mnist", config=config, compare_batches=compare_batches)


def _clothes(config: TrainConfig) -> Trial:
    return Trial(dataset="fashion-mnist", config=config)


def _digits(**changes: Value) -> Trial:
    """The tutorial's base, with changes."""
    settings = DIGITS | changes
    share = settings.pop(TEST_FRACTION)
    assert isinstance(share, float)
    return Trial(dataset="digits-8x8", config=recipe("mlp-small", **settings), test_fraction=share)


TUTORIALS = (
    Tutorial("A", "Softmax regression on MNIST, TensorFlow 1", default="mnist"),
    Tutorial("B", "A network with ready weights on MNIST, NumPy", default="mnist"),
    Tutorial("C", "Dense and convolutional networks on MNIST, Keras 2", default="mnist"),
    Tutorial("D", "scikit-learn's digits of 8 × 8 pixels, PyTorch", default="digits"),
    Tutorial("E", "Basic classification of Fashion-MNIST, TensorFlow 2", default="fashion-mnist"),
)

CLASSICS = (
    Classic("A", "A", "softmax regression", _mnist(SOFTMAX), 0.928, 0.925, quick_epochs=5),
    Classic(
        "B",
        "B",
        "784-50-100-10, sigmoid",
        _mnist(recipe("mlp-sigmoid"), compare_batches=True),
        0.9352,
        0.96,
        quick_epochs=10,
    ),
    Classic(
        "C-rmsprop",
        "C",
        "512-512 with dropout, RMSprop",
        _mnist(MLP_512),
        0.9834,
        0.982,
        quick_epochs=3,
        reported_seconds=(12, 21),
    ),
    Classic(
        "C-adadelta",
        "C",
        "512-512 with dropout, Adadelta",
        _mnist(replace(MLP_512, optimizer="adadelta", learning_rate=1.0)),
        0.9831,
        0.982,
        quick_epochs=3,
        reported_seconds=(12, 21),
    ),
    Classic(
        "C-cnn",
        "C",
        "two convolutions, Adadelta",
        _mnist(CNN),
        0.9902,
        0.992,
        quick_epochs=1,
        reported_seconds=(200, 249),
    ),
    Classic(
        "C-augmented",
        "C",
        "two convolutions, Adadelta along a cosine, images varied",
        _mnist(replace(CNN, schedule="cosine", augmentation=True)),
        None,
        0.992,
        quick_epochs=1,
        if_missed="C-cnn",
    ),
    Classic("D", "D", "64-32-16-10", _digits(), 0.947, 0.93, quick_epochs=1001, repeated=True),
    Classic(
        "D-best",
        "D",
        "64-256-128-10, AdamW along a cosine",
        _digits(
            hidden=(256, 128),
            optimizer="adamw",
            learning_rate=0.001,
            schedule="cosine",
            weight_decay=0.5,
            epochs=500,
        ),
        None,
        0.98,
        quick_epochs=500,
        repeated=True,
        beats=("D",),
    ),
    Classic(
        "E-1",
        "E",
        "128 relu, 1 epoch",
        _clothes(replace(CLOTHES, epochs=1)),
        0.849,
        0.84,
        quick_epochs=1,
        reported_seconds=(4, 5),
        reported_loss=0.424,
        repeated=True,
    ),
    Classic(
        "E-5",
        "E",
        "128 relu, 5 epochs",
        _clothes(replace(CLOTHES, epochs=5)),
        0.864,
        0.87,
        quick_epochs=5,
        reported_seconds=(4, 5),
        reported_loss=0.371,
        repeated=True,
    ),
    Classic(
        "E-cosine",
        "E",
        "128 relu, 5 epochs along a cosine",
        _clothes(replace(CLOTHES, epochs=5, schedule="cosine")),
        None,
        0.87,
        quick_epochs=5,
        repeated=True,
        if_missed="E-5",
    ),
    Classic(
        "E-500",
        "E",
        "128 relu, 500 epochs",
        _clothes(replace(CLOTHES, epochs=500)),
        0.886,
        0.88,
        quick_epochs=30,
        reported_seconds=(4, 5),
        reported_loss=1.199,
    ),
    Classic(
        "E-early",
        "E",
        "128 relu, stopped early",
        _clothes(replace(CLOTHES, epochs=40, patience=8, validation_fraction=1 / 12)),
        None,
        0.875,
        quick_epochs=15,
        beats=("E-5", "E-500"),
    ),
    Classic(
        "E-best",
        "E",
        "128 relu, AdamW in one cycle, stopped early",
        _clothes(recipe("mlp")),
        None,
        0.89,
        quick_epochs=8,
        beats=("E-5", "E-500"),
    ),
)

STUDY = Study(
    "D",
    "digits-8x8",
    "mlp-small",
    DIGITS,
    (
        Factor(
            "learning rate",
            "learning_rate",
            ((0.001, 0.865), (0.005, 0.953), (0.01, 0.947), (0.05, 0.938), (0.1, 0.969)),
        ),
        Factor(
            "test share",
            TEST_FRACTION,
            ((0.10, 0.972), (0.18, 0.960), (0.25, 0.947), (0.32, 0.957), (0.40, 0.954)),
        ),
        Factor(
            "epochs",
            "epochs",
            ((301, 0.893), (501, 0.931), (1001, 0.947), (1501, 0.960), (2001, 0.971)),
        ),
        Factor(
            "hidden sizes",
            "hidden",
            (
                ((16, 10), 0.960),
                ((16, 16), 0.940),
                ((32, 16), 0.947),
                ((64, 64), 0.962),
                ((128, 64), 0.976),
            ),
        ),
        Factor(
            "depth, as hidden layers",
            "hidden",
            (
                ((16,), 0.962),
                ((32, 16), 0.947),
                ((32, 16, 16), 0.956),
                ((32, 32, 16, 16), 0.964),
                ((64, 32, 32, 16, 16), 0.933),
            ),
        ),
        Factor(
            "optimiser",
            "optimizer",
            (
                ("sgd", 0.947),
                ("adam", 0.969),
                ("amsgrad", 0.964),
                ("adagrad", 0.967),
                ("rmsprop", 0.944),
            ),
        ),
    ),
)

DEFAULTS = (
    Default(Trial(dataset="mnist", config=recipe("cnn")), quick_epochs=1),
    Default(Trial(dataset="fashion-mnist", config=recipe("cnn")), quick_epochs=1),
    Default(Trial(dataset="digits", config=recipe("cnn", DIGITS_IMAGES)), quick_epochs=20),
)

PLAN = Plan(TUTORIALS, CLASSICS, STUDY, DEFAULTS)
