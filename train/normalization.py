"""Batch normalisation, made fast for training and plain for everything else."""

import keras
import tensorflow as tf


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch normalisation of feature maps, as TensorFlow's one operation: three times as fast to train on a CPU as Keras's dozen.

    A model that leaves training is to hold Keras's own layer, which needs no code of ours to be loaded: see `plain`.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: None = None) -> tf.Tensor:
        """Float32 `(n, height, width, channels)`, each channel of mean `beta` and deviation `gamma`."""
        if not training:
            return super().call(inputs, training=False, mask=mask)
        normal, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma, self.beta, epsilon=self.epsilon, is_training=True
        )
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1 - self.momentum))
        return normal


def plain(model: keras.Model) -> keras.Model:
    """The same model, weights and all, with Keras's own layers only."""
    if not any(isinstance(layer, FusedBatchNormalization) for layer in model.layers):
        return model

    def own(layer: keras.layers.Layer) -> keras.layers.Layer:
        kind = keras.layers.BatchNormalization if isinstance(layer, FusedBatchNormalization) else type(layer)
        return kind.from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=own)
    copy.set_weights(model.get_weights())
    return copy
