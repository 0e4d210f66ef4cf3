"""One update of the weights and one evaluation step, on all devices at once."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from contract.machine import multiplies_bfloat16
from contract.tokenizers import SpecialIds
from export.config import TrainConfig
from export.training.devices import Compute, Devices
from export.training.model import States, activation_penalty, layer_outputs, zero_states
from export.training.sequence import split

# The decay of the moving average starts low: it is (1 + n) / (10 + n) after n updates, until that reaches `ema`.
_WARM_UP = 10.0


def precision_of(config: TrainConfig, devices: Devices) -> str:
    """Return "float32" or "bfloat16"; "auto" is float32 on a GPU, where cuDNN uses TF32 if it can."""
    if config.precision != "auto":
        return config.precision
    return "bfloat16" if not devices.on_gpu and multiplies_bfloat16() else "float32"


class AdamW(keras.optimizers.Adam):
    """Keras's Adam, including its state, with weight decay, and two passes over the weights per update, not fifteen.

    A single fused TensorFlow operation updates a variable. Weight decay is a share of the learning rate, zero for
    biases. Adam: Kingma and Ba, https://arxiv.org/abs/1412.6980; decoupled weight decay: Loshchilov and Hutter,
    https://arxiv.org/abs/1711.05101.
    """

    def __init__(self, learning_rate: float, decay: float, beta_1: float, beta_2: float) -> None:
        super().__init__(learning_rate, beta_1=beta_1, beta_2=beta_2, name="adamw")
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


class Optimization:
    """A model, its optimizer and the moving average of its weights.

    Labels are not targets, and the unknown token is not evaluated.

    Attributes:
        averaged: The model with the averaged weights; the model itself without a moving average.
        checkpoint: Everything needed for a resumed run.
    """

    def __init__(self, config: TrainConfig, model: keras.Model, devices: Devices, special: SpecialIds) -> None:
        self._config, self._model, self._devices, self._special = config, model, devices, special
        # Evaluated in float32, as the model will be served.
        self._evaluation_compute = devices.compute(config.batch_size, config.units)
        precision = tf.as_dtype(precision_of(config, devices))
        self._compute = dataclasses.replace(self._evaluation_compute, precision=precision)
        with devices.strategy.scope():
            # A run has too few updates for the longer averages of Adam's defaults. With 0.9, two passes over 300,000
            # characters ended 0.03 higher with a GRU, and 0.014 lower with a SimpleRNN.
            beta_1 = 0.9 if config.cell == "simple_rnn" else 0.7
            self._optimizer = AdamW(config.learning_rate, config.weight_decay, beta_1, beta_2=0.99)
            self._optimizer.build(model.trainable_variables)
            self._updates = tf.Variable(0.0, trainable=False)
            self.averaged = model
            if config.ema:
                self.averaged = keras.models.clone_model(model)
                self.averaged.set_weights(model.get_weights())
        # TensorFlow does not track the states of Keras's dropout generators; a resumed run needs them.
        dropout = [variable.value for variable in model.non_trainable_variables]
        parts = {"model": model, "optimizer": self._optimizer, "dropout": dropout, "updates": self._updates}
        self.checkpoint = tf.train.Checkpoint(**parts, averaged=self.averaged)
        self._update, self._evaluate = self._functions()

    def _functions(self) -> tuple[Any, Any]:
        """Build the graphs of an update and of an evaluation step.

        One graph serves windows of every length: with two graphs, a resumed run would not be bit-exact. Distributed
        values have no such input signature, so with several replicas each of the two lengths gets its own graph.
        """
        ids = tf.TensorSpec([None, None], tf.int32)
        states = tf.nest.map_structure(
            lambda s: tf.TensorSpec([None, s.shape[1]], s.dtype), zero_states(self._model, 1)
        )
        kept, number = tf.TensorSpec([None, 1]), tf.TensorSpec([])
        signatures = [ids, ids, states, kept, number, number], [ids, ids, states, number]
        update, evaluate = signatures if self._devices.num_replicas == 1 else (None, None)
        return (
            tf.function(self._update_everywhere, input_signature=update, autograph=False),
            tf.function(self._evaluate_everywhere, input_signature=evaluate, autograph=False),
        )

    def zero_states(self, rows: int) -> Any:
        """Return the zero state for a global batch size."""
        return self._devices.distribute(lambda own: zero_states(self._model, own.stop - own.start), rows)

    def update(
        self, inputs: np.ndarray, targets: np.ndarray, states: Any, kept: np.ndarray, rate: float
    ) -> tuple[float, Any]:
        """Train on one BPTT window.

        Args:
            inputs: int32 (T, rows).
            targets: int32 (T, rows), or (1, rows).
            states: As the previous window returned them, or `zero_states`.
            kept: float32 (rows, 1), 0 for sequences whose state is reset.
            rate: The learning rate.

        Returns:
            Mean loss in nats per token with dropout, and the states.
        """
        batch = self._distribute(inputs, targets)
        kept_shares = self._devices.distribute(lambda own: tf.constant(kept[own]), len(kept))
        num_targets = self.num_targets(targets)
        count, rate_tensor = tf.constant(float(num_targets)), tf.constant(rate)
        loss, states = self._update(*batch, states, kept_shares, count, rate_tensor)
        return float(loss) / num_targets, states

    def num_targets(self, targets: np.ndarray) -> int:
        """Return how many of the targets of a window are no labels, at least 1."""
        return max(1, targets.size - int(np.isin(targets, self._special.labels).sum()))

    def evaluate(
        self, inputs: np.ndarray, targets: np.ndarray, states: Any, logit_scale: float
    ) -> tuple[np.ndarray, Any]:
        """Evaluate one batch of the validation split, with scaled logits.

        Returns:
            Sums over the known tokens, float32 (4,): the loss in nats, its first and second derivative by the scale,
            and how many were the most probable token; and the states.
        """
        sums, states = self._evaluate(*self._distribute(inputs, targets), states, tf.constant(logit_scale))
        return sums.numpy(), states

    def _distribute(self, *arrays: np.ndarray) -> list[Any]:
        distribute = self._devices.distribute
        return [distribute(lambda own, a=array: tf.constant(a[:, own]), array.shape[1]) for array in arrays]

    def _update_everywhere(self, inputs, targets, states, kept, count, rate):  # noqa: ANN001, ANN202 - traced by TensorFlow
        strategy = self._devices.strategy
        self._optimizer.learning_rate.assign(rate)
        loss, states = strategy.run(self._update_replica, (inputs, targets, states, kept, count))
        self._updates.assign_add(1.0)
        if self.averaged is not self._model:
            decay = tf.minimum(self._config.ema, (1.0 + self._updates) / (_WARM_UP + self._updates))
            for average, variable in zip(
                self.averaged.trainable_variables, self._model.trainable_variables, strict=True
            ):
                strategy.extended.update(average.value, _move, args=(variable.value, decay), group=False)
        return strategy.reduce("SUM", loss, axis=None), states

    def _evaluate_everywhere(self, inputs, targets, states, scale):  # noqa: ANN001, ANN202 - traced by TensorFlow
        strategy = self._devices.strategy
        sums, states = strategy.run(self._evaluate_replica, (inputs, targets, states, scale))
        return strategy.reduce("SUM", sums, axis=None), states

    def _update_replica(
        self, inputs: tf.Tensor, targets: tf.Tensor, states: States, kept: tf.Tensor, count: tf.Tensor
    ) -> tuple[tf.Tensor, States]:
        """Return the summed loss and the states of a replica; `count` is the number of tokens of all replicas."""
        states = tf.nest.map_structure(lambda part: part * kept, states)
        variables = self._model.trainable_variables
        with tf.GradientTape() as tape:
            outputs, new_states = layer_outputs(self._model, inputs, states, training=True, compute=self._compute)
            parts = _parts(targets, outputs[-1], self._compute)
            loss = tf.add_n([tf.reduce_sum(self._losses(*part)) for part in parts])
            mean = loss / count
            if self._config.activation_regularization:
                mean += self._config.activation_regularization * activation_penalty(self._model, outputs) / count
        gradients = tape.gradient(mean, [variable.value for variable in variables])
        self._apply([tf.convert_to_tensor(gradient) for gradient in gradients])
        return loss, new_states

    def _apply(self, gradients: list[tf.Tensor]) -> None:
        """Apply the gradients of all replicas.

        Keras would clip the gradients of each replica and then sum them. Here they are summed first, so that clipping
        is the same as on one device. Each replica then passes on an equal share, and Keras sums the shares.
        """
        if self._devices.num_replicas > 1:
            gradients = tf.distribute.get_replica_context().all_reduce("SUM", gradients)
        gradients, _ = tf.clip_by_global_norm(gradients, self._config.clip_norm)
        shares = [gradient / self._devices.num_replicas for gradient in gradients]
        self._optimizer.apply(shares, self._model.trainable_variables)

    def _evaluate_replica(
        self, inputs: tf.Tensor, targets: tf.Tensor, states: States, scale: tf.Tensor
    ) -> tuple[tf.Tensor, States]:
        compute = self._evaluation_compute
        outputs, new_states = layer_outputs(self.averaged, inputs, states, training=False, compute=compute)
        sums = []
        for own_targets, own_logits in _parts(targets, outputs[-1], compute):
            is_known = tf.cast(own_targets != self._special.unknown, tf.float32) * self._no_label(own_targets)
            hit = tf.argmax(own_logits, axis=-1, output_type=tf.int32) == own_targets
            scaled = own_logits * scale
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(own_targets, scaled)
            # By the scale, the derivative of the loss is E[logit] - logit of the target, and the second is Var[logit].
            weighted = tf.nn.softmax(scaled) * own_logits
            mean = tf.reduce_sum(weighted, axis=-1)
            variance = tf.einsum("nv,nv->n", weighted, own_logits) - mean**2
            slope = mean - tf.gather(own_logits, own_targets, batch_dims=1)
            columns = losses, slope, variance, tf.cast(hit, tf.float32)
            sums.append(tf.stack([tf.reduce_sum(column * is_known) for column in columns]))
        return tf.add_n(sums), new_states

    def _losses(self, targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Return the losses of targets (tokens,), 0 for labels."""
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
        return losses * self._no_label(targets) if self._special.labels else losses

    def _no_label(self, targets: tf.Tensor) -> tf.Tensor:
        """Return 0.0 for targets (tokens,) that are labels, and 1.0 for others."""
        is_target = np.ones(self._model.output.shape[-1], np.float32)
        is_target[list(self._special.labels)] = 0.0
        return tf.gather(is_target, targets)


def _parts(targets: tf.Tensor, logits: list[tf.Tensor], compute: Compute) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Yield targets (tokens,) and logits (tokens, V) of each core's partition."""
    for part_targets, part_logits in zip(split(targets, compute.row_parts, axis=1), logits, strict=True):
        flat = tf.reshape(part_logits, [-1, part_logits.shape[-1]])
        parts = [split(x, compute.unit_parts) for x in (tf.reshape(part_targets, [-1]), flat)]
        yield from zip(*parts, strict=True)


def _move(average: tf.Variable, value: tf.Tensor, decay: tf.Tensor) -> None:
    average.assign(average * decay + value * (1.0 - decay))
