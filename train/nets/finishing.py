"""From a network as it was trained to the model that answers: with Keras's own layers only, and looking at things in several ways."""

import keras
from keras import layers

from train.nets.normalization import FusedBatchNormalization


def finished(model: keras.Model, *, both_ways: bool, shifted: bool = False) -> keras.Model:
    """The model that answers with the weights of a trained network.

    The mean over several views of an image takes as many times the time, and is right more often: an average over augmented inputs,
    as in Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks", 2012.

    Args:
        model: From uint8 `(n, height, width)` to float32 logits `(n, classes)`.
        both_ways: Whether its logits are to be the mean of those of the image and of its mirror image; for things of which a mirrored
            image is of the same class.
        shifted: Whether they are to be the mean of those of the image as it is, a pixel higher and a pixel lower.
    """
    model = _plain(model)
    if not (both_ways or shifted):
        return model
    images = layers.Input(model.input_shape[1:], dtype="uint8", name="images")
    views = [images, _shifted(images, up=1), _shifted(images, down=1)] if shifted else [images]
    if both_ways:
        views += [view[:, :, ::-1] for view in views]
    logits = layers.Average(name="views")([model(view) for view in views])
    return keras.Model(images, logits, name=model.name)


def _shifted(images: "keras.KerasTensor", *, up: int = 0, down: int = 0) -> "keras.KerasTensor":
    """The images moved by whole pixels, with background, 0, where they come from."""
    height, width = images.shape[1:]
    pixels = layers.Reshape((height, width, 1))(images)
    padded = layers.ZeroPadding2D(((down, up), (0, 0)))(pixels)
    return layers.Reshape((height, width))(layers.Cropping2D(((up, down), (0, 0)))(padded))


def _plain(model: keras.Model) -> keras.Model:
    """The same model, weights and all, with Keras's own layers only."""
    if not any(isinstance(layer, FusedBatchNormalization) for layer in model.layers):
        return model

    def own(layer: layers.Layer) -> layers.Layer:
        kind = (
            layers.BatchNormalization if isinstance(layer, FusedBatchNormalization) else type(layer)
        )
        return kind.from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=own)
    copy.set_weights(model.get_weights())
    return copy
