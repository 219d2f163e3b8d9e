"""Which network a policy or a critic has."""

from __future__ import annotations

from collections.abc import Sequence

from trpo_cli.data import ObservationSpec
from trpo_cli.errors import ConfigError
from trpo_cli.models.cnn import CNN
from trpo_cli.models.convolutions import Convolution
from trpo_cli.models.encoders import MLPEncoder
from trpo_cli.models.mlp import MLP, MultiInput
from trpo_cli.models.passes import Activation

Network = MLP | CNN


def make_network(
    observation: ObservationSpec,
    outputs: int,
    *,
    hidden_sizes: Sequence[int],
    encoder_sizes: Sequence[int] | None,
    convolutions: Sequence[Convolution] | None,
    activation: Activation,
    output_gain: float,
    role: str,
) -> Network:
    """A network for the group `role`.

    With `convolutions` it reads images as they are stored; otherwise it reads all numbers of an observation, together
    or through an encoder for each entry. Raises `ConfigError` if the convolutions do not fit the observations.
    """
    if convolutions:
        refuse_vectors(observation, role)
        return CNN(observation, convolutions, hidden_sizes, outputs, activation, output_gain, role)
    if not encoder_sizes:
        return MLP(observation.size, hidden_sizes, outputs, activation, output_gain)
    encoders = [MLPEncoder(entry.size, encoder_sizes, activation) for entry in observation.parts]
    places = [entry.place for entry in observation.parts]
    return MultiInput(encoders, places, hidden_sizes, outputs, activation, output_gain)


def refuse_vectors(observation: ObservationSpec, role: str) -> None:
    """Raise `ConfigError` unless the observations are images."""
    if not observation.is_image:
        option = "multi_input" if observation.entries else "mlp"
        raise ConfigError(
            f"{role}: convolutions read images, which are arrays of uint8 or bool with two axes, or three with "
            f"colours; an observation here has the shape {observation.newest} and is {observation.dtype}\n"
            f"{role}={option} reads it"
        )
