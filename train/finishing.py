"""From a network as it was trained to the model that answers: with Keras's own layers only, and looking at things from both sides."""

import keras

from train.normalization import FusedBatchNormalization


def finished(model: keras.Model, *, both_ways: bool) -> keras.Model:
    """The model that answers with the weights of a trained network.

    Args:
        model: From uint8 `(n, height, width)` to float32 logits `(n, classes)`.
        both_ways: Whether its logits are to be the mean of those of the image and of its mirror image. That takes twice the time, and
            is right more often where a mirrored image is of the same class: an average over augmented inputs, as in
            Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks", 2012.
    """
    model = _plain(model)
    if not both_ways:
        return model
    images = keras.layers.Input(model.input_shape[1:], dtype="uint8", name="images")
    logits = keras.layers.Average(name="both_ways")([model(images), model(images[:, :, ::-1])])
    return keras.Model(images, logits, name=model.name)


def _plain(model: keras.Model) -> keras.Model:
    """The same model, weights and all, with Keras's own layers only."""
    if not any(isinstance(layer, FusedBatchNormalization) for layer in model.layers):
        return model

    def own(layer: keras.layers.Layer) -> keras.layers.Layer:
        kind = keras.layers.BatchNormalization if isinstance(layer, FusedBatchNormalization) else type(layer)
        return kind.from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=own)
    copy.set_weights(model.get_weights())
    return copy
