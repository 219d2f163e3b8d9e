"""Records of data: the `Sample` that a sampler collects, and the flat `Batch` that an update reads.

Sizes: T time steps, N environments, S states, K actions tried in each (one along a single path), A action numbers,
P distribution parameters. `O` stands for the shape of one observation, one number for vectors. Observations of many
steps are one tensor, or `Frames` where consecutive ones share what they show; `Sequences` have what came before, too.
"""

from trpo_cli.data.batches import Batch, States
from trpo_cli.data.observations import (
    Entry,
    Frames,
    Observations,
    ObservationSpec,
    Sequences,
    Steps,
    Tensors,
    length_of,
    read,
    shows_image,
    steps,
)
from trpo_cli.data.samples import Advantage, Estimates, Predict, Remembered, Rollout, Sample, Visited

__all__ = [
    "Advantage",
    "Batch",
    "Entry",
    "Estimates",
    "Frames",
    "ObservationSpec",
    "Observations",
    "Predict",
    "Remembered",
    "Rollout",
    "Sample",
    "Sequences",
    "States",
    "Steps",
    "Tensors",
    "Visited",
    "length_of",
    "read",
    "shows_image",
    "steps",
]
