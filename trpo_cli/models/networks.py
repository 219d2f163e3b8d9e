"""Which network a policy or a critic has."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trpo_cli.data import ObservationSpec
from trpo_cli.errors import ConfigError
from trpo_cli.models.cells import Memory
from trpo_cli.models.cnn import CNN
from trpo_cli.models.convolutions import Convolution
from trpo_cli.models.encoders import MLPEncoder
from trpo_cli.models.mlp import MLP, MultiInput
from trpo_cli.models.passes import Activation
from trpo_cli.models.rnn import RNN

Network = MLP | CNN | RNN


def make_network(
    observation: ObservationSpec,
    outputs: int,
    *,
    hidden_sizes: Sequence[int],
    encoder_sizes: Sequence[int] | None,
    convolutions: Sequence[Convolution] | None,
    memory: Memory | None = None,
    memory_size: int | None = None,
    memory_span: int | None = None,
    skipped: int = 0,
    activation: Activation,
    output_gain: float,
    role: str,
) -> Network:
    """A network for the group `role`.

    With `convolutions` it reads images as they are stored; otherwise it reads all numbers of an observation, together
    or through an encoder for each entry. With a `memory` of so many units, what precedes that is the encoder, and the
    network finds its part of the memory of a run behind the first `skipped` numbers. Raises `ConfigError` if the
    convolutions do not fit the observations, or leave more numbers than a memory should read, and for a memory without
    units or units without a memory.
    """
    given = {"memory_size": memory_size, "memory_span": memory_span}
    if memory is None and (idle := next(filter(given.get, given), None)):
        raise ConfigError(f"{role}.{idle}: takes effect only with a memory, {role}.memory=gru or lstm")
    if memory and memory_size is None:
        raise ConfigError(f"{role}.memory_size: got null, and a memory has a number of units, such as 64")
    if memory and memory_size:
        encoder = _make_encoder(observation, encoder_sizes, convolutions, activation, role)
        inputs = observation.size if encoder is None else encoder.head.out_features
        sizes = (memory_size, memory_span, hidden_sizes, outputs)
        return RNN(encoder, inputs, memory, *sizes, activation, output_gain, skipped)
    if convolutions:
        refuse_vectors(observation, role)
        return CNN(observation, convolutions, hidden_sizes, outputs, activation, output_gain, role)
    if not encoder_sizes:
        return MLP(observation.size, hidden_sizes, outputs, activation, output_gain)
    encoders = [MLPEncoder(entry.size, encoder_sizes, activation) for entry in observation.parts]
    places = [entry.place for entry in observation.parts]
    return MultiInput(encoders, places, hidden_sizes, outputs, activation, output_gain)


def _make_encoder(
    observation: ObservationSpec,
    widths: Sequence[int] | None,
    convolutions: Sequence[Convolution] | None,
    activation: Activation,
    role: str,
) -> MLP | CNN | None:
    """What a memory reads: the outputs of this network, or the observations themselves if there is none."""
    if convolutions:
        refuse_vectors(observation, role)
        if not widths:
            raise ConfigError(
                f"{role}.encoder_sizes: a memory reads what linear layers make of the features of convolutions; "
                f"[128] makes 128 numbers of them"
            )
        return CNN(observation, convolutions, widths[:-1], widths[-1], activation, math.sqrt(2), role)
    return MLP(observation.size, widths[:-1], widths[-1], activation, math.sqrt(2)) if widths else None


def refuse_vectors(observation: ObservationSpec, role: str) -> None:
    """Raise `ConfigError` unless the observations are images."""
    if not observation.is_image:
        option = "multi_input" if observation.entries else "mlp"
        raise ConfigError(
            f"{role}: convolutions read images, which are arrays of uint8 or bool with two axes, or three with "
            f"colours; an observation here has the shape {observation.newest} and is {observation.dtype}\n"
            f"{role}={option} reads it"
        )
