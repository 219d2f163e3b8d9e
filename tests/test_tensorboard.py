"""What TensorBoard is told of a run: settings, text and charts in its one stream, right also after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import metadata
from test_resume import SMALL, interrupted

from trpo_cli.run.logger import COLUMNS
from trpo_cli.run.tensorboard import LAYOUT

OWN = {"trust_region/delta", "trust_region/step_length"}  # of TRPO, beside the columns of all


def stream(run: Path) -> Any:
    """The one there is."""
    assert not [path for path in (run / "tensorboard").iterdir() if path.is_dir()]
    return EventAccumulator(str(run / "tensorboard"), {"tensors": 0}).Reload()


def settings(events: Any) -> dict[str, Any]:
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    found = metadata.parse_session_start_info_plugin_data(content).hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()}


def ended(events: Any) -> bool:
    return metadata.SESSION_END_INFO_TAG in events.PluginTagToContent(metadata.PLUGIN_NAME)


def texts(events: Any, name: str) -> list[tuple[int, str]]:
    return [(e.step, e.tensor_proto.string_val[0].decode()) for e in events.Tensors(f"run/{name}/text_summary")]


def test_a_run_is_described(trpo_train: Command, tmp_path: Path) -> None:
    assert trpo_train(*SMALL, "hydra.run.dir=run", "seed=3", "algo.delta=0.02").status == 0
    events = stream(tmp_path / "run")
    found = settings(events)
    assert {"algo": "trpo", "algo/metric": "gauss_newton", "Environment": "CartPole-v1"}.items() <= found.items()
    assert found["seed"] == 3
    assert found["algo.delta"] == 0.02
    assert found["policy.hidden_sizes"] == "[64, 64]"
    assert not {"env", "env.id", "logger", "total_steps", "checkpoint.every", "algo._target_", "resume"} & found.keys()
    assert ended(events)
    ((_, config),) = texts(events, "config")
    assert config == f"```yaml\n{(tmp_path / 'run' / 'config.yaml').read_text()}```"
    ((_, provenance),) = texts(events, "provenance")
    assert "seed=3 algo.delta=0.02" in provenance
    assert "| git revision | " in provenance
    (layout,) = events.Tensors("custom_scalars__config__")
    categories = Layout.FromString(layout.tensor_proto.string_val[0]).category
    assert [category.title for category in categories] == list(LAYOUT)
    tags = {tag for category in categories for chart in category.chart for tag in chart.multiline.tag}
    assert tags <= {*COLUMNS, *OWN}
    scalars = events.Tags()["scalars"]
    assert set(scalars) >= OWN
    assert sorted(scalars)[:2] == ["Return/evaluation", "Return/training"], "TensorBoard shows metrics by name"
    assert sorted(found)[0] == "Environment", "and settings, those that differ first"
    for name, of in (("training", "rollout/episode_return_mean"), ("evaluation", "eval/episode_return_mean")):
        points = [[(e.step, e.value) for e in events.Scalars(tag)] for tag in (f"Return/{name}", of)]
        assert points[0] == points[1] != []


def test_and_again_when_it_goes_on(trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    interrupted(trpo_train, monkeypatch, *SMALL, "hydra.run.dir=run")
    assert not ended(stream(run))
    assert trpo_train("resume=run").status == 0
    assert [step for step, _ in texts(stream(run), "config")] == [0, 192]
    assert ended(stream(run))
    interrupted(trpo_train, monkeypatch, "resume=run", "total_steps=6400")
    events = stream(run)
    assert not ended(events)
    assert [step for step, _ in texts(events, "config")] == [0, 192, 640]
    assert settings(events)["algo.delta"] == 0.01
