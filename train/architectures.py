"""Architectures: plain functions from a number of classes to an untrained Keras model that takes raw `uint8`."""

import keras
from keras import layers

from loupe.images import SIDE


def cnn(classes: int) -> keras.Model:
    """A small convolutional network of two stages; 2.4 MFLOP an image.

    Returns:
        A model from uint8 `(n, 28, 28)`, 0 = background, 255 = full ink, to float32 probabilities `(n, classes)`.
    """
    return keras.Sequential(
        [
            layers.Input((SIDE, SIDE), dtype="uint8", name="images"),
            layers.Rescaling(1 / 255),
            layers.Reshape((SIDE, SIDE, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),  # (n, 14, 14, 16)
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),  # (n, 7, 7, 32)
            layers.BatchNormalization(momentum=0.9),  # settles within a hundred steps
            layers.Flatten(),
            layers.Dropout(0.25),
            layers.Dense(128, activation="relu"),
            layers.Dense(classes, activation="softmax", dtype="float32", name="probabilities"),
        ],
        name="cnn",
    )
