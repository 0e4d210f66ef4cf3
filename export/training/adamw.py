"""AdamW as Keras computes it, but with two passes over the weights per update instead of fifteen.

Adam: Kingma and Ba, https://arxiv.org/abs/1412.6980; decoupled weight decay: Loshchilov and Hutter,
https://arxiv.org/abs/1711.05101.
"""

from typing import Any

import keras
import tensorflow as tf


class AdamW(keras.optimizers.Adam):
    """Keras's Adam, including its state, with an update by a single fused TensorFlow operation.

    It implements weight decay itself, as Keras's needs three passes: a share of the learning rate, and none for biases.
    """

    def __init__(self, learning_rate: float, decay: float, beta_2: float) -> None:
        super().__init__(learning_rate, beta_2=beta_2, name="adamw")
        self._decay = decay

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: Any) -> None:
        """Update a variable and its moments in place; Keras calls it for each variable."""
        index = self._get_variable_index(variable)
        rate, step = tf.cast(learning_rate, tf.float32), tf.cast(self.iterations + 1, tf.float32)
        if "bias" not in variable.name:
            variable.assign(variable * (1.0 - self._decay * rate))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(self.beta_1, step),
            beta2_power=tf.pow(self.beta_2, step),
            lr=rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )
