"""A report as people read it: what it begins with, how it writes numbers and names, and what it draws how."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from hydra.core.override_parser.overrides_parser import OverridesParser
from test_claims import group, told

from trpo_cli.columns import EVALUATION, RETURN
from trpo_cli.config.settings import format_setting
from trpo_cli.report.figures import draw_panels, render
from trpo_cli.report.groups import Group
from trpo_cli.report.numbers import Interval, format_number, format_p, format_seconds, format_share, format_steps
from trpo_cli.report.runs import RunRecord
from trpo_cli.report.styles import FAMILIES, PALETTE, Styles
from trpo_cli.report.table import Table

GAMMA = "\N{GREEK SMALL LETTER GAMMA}"
HIGH, NEAR, LOW = [9.0, 10.0, 11.0, 10.5, 9.5], [8.0, 10.5, 9.0, 9.7, 8.2], [1.0, 2.0, 1.5, 2.5, 3.0]


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (format_number(3540.1), "3,540"),
        (format_number(-4.0814), "-4.08"),
        (format_number(78.96), "79.0"),
        (format_number(79.0), "79"),
        (format_number(999.7), "1,000"),
        (format_number(9.8195e-08), "9.8 x 10⁻⁸"),
        (format_number(0.0), "0"),
        (format_number(float("nan")), "—"),
        (format_number(207), "207"),
        (format_steps(20_480), "20,480"),
        (format_steps(1_003_520), "1 M"),
        (format_steps(1_015_808), "1.02 M"),
        (format_seconds(1.23), "1.2 s"),
        (format_seconds(304.0), "5.1 min"),
        (format_seconds(43_200.0), "12 h"),
        (format_share(0.86667), "87 %"),
        (format_share(0.9996), "> 99 %"),
        (format_share(0.0004), "< 1 %"),
        (format_p(0.00004), "< 0.001"),
        (format_p(0.0117), "0.012"),
        (Interval(2236.1, 5143.7).format(), "2,200 to 5,100"),
        (Interval(3452.5, 3627.7).format(), "3,450 to 3,630"),
        (Interval(0.2851, 0.4021).format(), "0.285 to 0.402"),
        (Interval(76.616, 89.03, extremes=True).format(), "76.6 to 89.0 (min to max)"),
        (str(Interval(2236.14, 5143.7)), "2,236.1 to 5,143.7"),
    ],
)
def test_numbers_have_three_digits_that_their_interval_supports(written: str, text: str) -> None:
    assert written.translate({0x2212: "-", 0xD7: "x"}) == text


def test_a_number_has_no_digit_that_its_interval_does_not_support() -> None:
    """The interval of a number is beside it; the best is rounded as the final before it."""
    row = ("Ant-v4", "npg", 5, 1_001_472, 3689.9, Interval(2236.1, 5143.7), 3725.5, 4216.3, Interval(4213.8, 4218.7))
    columns = (
        "task",
        "algorithm",
        "runs",
        "steps",
        "final a",
        "95 % interval",
        "best a",
        "final b",
        "95 % interval of b",
    )
    table = Table("results", "Results", columns, (row,))
    assert table.body() == [
        ["Ant-v4", "npg", "5", "1 M", "3,700", "2,200 to 5,100", "3,700", "4,220", "4,210 to 4,220"]
    ]
    assert table.head()[3:7] == ["steps", "a", "95 % interval", "best"]
    assert "3689.9" in table.to_csv(), "in full for other programs"


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        (
            {"trpo": HIGH, "npg": NEAR},
            "The highest mean training return is that of trpo, 10 (95 % interval 9.0 to 11.0), but the interval "
            "overlaps with that of npg.",
        ),
        (
            {"trpo": HIGH, "ppo": LOW, "vpg": [9.0]},
            "The highest mean training return is that of trpo, 10 (95 % interval 9.0 to 11.0), and its interval "
            "overlaps with no other, groups of fewer than 5 runs aside.",
        ),
        (
            {"trpo": HIGH, "ppo": LOW[:4]},
            "The highest mean training return is that of trpo, 10 (95 % interval 9.0 to 11.0); with fewer than 5 "
            "runs of a group, no difference is claimed.",
        ),
        (
            {"trpo": [4.0], "ppo": [4.0]},
            "The highest mean training return, 4, is shared by ppo and trpo.",
        ),
        (
            {name: [4.0] for name in ("a2c", "npg", "ppo", "trpo", "vpg")},
            "The highest mean training return, 4, is shared by all.",
        ),
        ({"trpo": [3.0, 5.0]}, "The mean training return at the end is 4 (min to max 3 to 5)."),
    ],
)
def test_it_begins_with_what_came_out(tmp_path: Path, groups: dict[str, list[float]], sentence: str) -> None:
    for algo, finals in groups.items():
        group(tmp_path, "Hopper-v4", algo, finals)
    first, second = re.match(r"(.+? steps\.) (.+)", told(tmp_path).lead).groups()  # type: ignore[union-attr]
    counts = sorted({len(finals) for finals in groups.values()})
    runs = f"{counts[0]} to {counts[-1]} runs" if len(counts) > 1 else f"{counts[0]} run{'s' * (counts[0] > 1)}"
    assert f"on Hopper-v4, with {runs}" in first
    assert "of 1 M environment steps." in first
    assert second == sentence


def test_over_several_tasks_it_counts_and_names_those_that_are_decided(tmp_path: Path) -> None:
    for task, finals in (("Hopper-v4", LOW), ("Ant-v4", NEAR)):
        group(tmp_path, task, "trpo", HIGH)
        group(tmp_path, task, "ppo", finals)
    assert told(tmp_path).lead.endswith(
        "The highest mean training return is that of trpo on 2 of 2 tasks; its interval is apart from all others for "
        "trpo on Hopper-v4."
    )


def test_the_evaluation_stands_beside_the_training_return_that_lags(tmp_path: Path) -> None:
    group(tmp_path, "Hopper-v4", "trpo", HIGH, **{EVALUATION: 80.0})
    assert told(tmp_path).lead.endswith("at the end is 10 (95 % interval 9.0 to 11.0; evaluation 80).")


def variants(folder: Path, count: int) -> None:
    for place in range(count):
        group(folder / str(place), "Hopper-v4", "trpo", [1.0 + place], EVALUATION)
        path = folder / str(place) / "Hopper-v4" / "trpo" / "0" / "config.yaml"
        node = json.loads(path.read_text())
        schedule = {"delta": ["linear", place / 100], "lam": "constant" if place % 2 else ["cosine", 0.9]}
        path.write_text(json.dumps({**node, "algo": {"schedule": schedule}}))


def test_many_long_names_are_counted_and_typed_as_they_are_written(tmp_path: Path) -> None:
    variants(tmp_path, 8)
    last = "trpo algo.schedule.delta=[linear,0.07] algo.schedule.lam=constant"
    made = told(tmp_path, versus=["trpo algo.schedule.delta=['linear', 0.07] algo.schedule.lam=constant"])
    assert made.lead.startswith(
        "This report compares 8 variants of trpo that differ in algo.schedule.delta and algo.schedule.lam on Hopper-v4"
    )
    for place in range(8):
        group(tmp_path / str(place), "Hopper-v4", "ppo", [1.0], EVALUATION)
        config = (tmp_path / str(place) / "Hopper-v4" / "trpo" / "0" / "config.yaml").read_text()
        config = config.replace('"algo": "trpo"', '"algo": "ppo"')
        (tmp_path / str(place) / "Hopper-v4" / "ppo" / "0" / "config.yaml").write_text(config)
    assert "compares 8 groups of runs on" in told(tmp_path, by=["algo.schedule.delta"]).lead
    tables = {s.table.name: s.table for s in made.sections if s.table}
    assert {row[1] for row in tables["versus"].rows} == {last}
    assert "[cosine,0.9] (4 groups); constant (4 groups)" in tables["hyperparameters"].to_markdown()
    (curves,) = [s for s in made.sections if s.title == "Learning curves"]
    assert curves.figures[0].alt == "evaluation against environment steps on Hopper-v4: 8 variants of trpo"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (False, "false"),
        (0.00001, "1e-05"),
        (1_000_000, "1000000"),
        (["piecewise", [0.3, 0.02], [1, None]], "[piecewise,[0.3,0.02],[1,null]]"),
        ({"a": ["5:"], "b": True}, "{a:[5:],b:true}"),
        (["a b", "it's", ""], """['a b',"it's",'']"""),
    ],
)
def test_values_are_written_as_one_types_them(value: Any, text: str) -> None:
    assert format_setting(value) == text
    assert OverridesParser.create().parse_override(f"key={text}").value() == value


def test_an_algorithm_has_its_colour_whoever_else_is_there() -> None:
    def style(*labels: str) -> list[dict[str, Any]]:
        groups = [Group("t", label, (RunRecord(Path(label), "finished", algo=label.split()[0]),)) for label in labels]
        styles = Styles(groups)
        return [styles(label) for label in labels]

    for algo, colour in FAMILIES.items():
        assert style(algo)[0] == {"color": colour, "linestyle": "-"}
        assert style("zzz", algo)[-1]["color"] == colour
    assert len({*FAMILIES.values()}) == len(FAMILIES)
    assert style("my_own")[0] == style("my_own", "trpo")[0]
    assert style("my_own")[0]["color"] in PALETTE
    several = [f"trpo algo.delta={delta}" for delta in range(16)]
    assert len({(one["color"], one["linestyle"]) for one in style(*several)}) == 16
    assert len({(one["color"], one["linestyle"]) for one in style(*several, "ppo")}) == 17
    assert len({one["color"] for one in style(*several[:8])}) == 8, "where no colour tells algorithms apart"
    assert style(*several[:4])[0]["color"] == style(*several)[0]["color"] == FAMILIES["trpo"]
    assert style("trpo", "trpo_max_kl")[0]["color"] == FAMILIES["trpo"]


def test_one_legend_beside_the_panels_names_each_curve_once(tmp_path: Path) -> None:
    for task in ("Hopper-v4", "Ant-v4"):
        group(tmp_path, task, "trpo", HIGH, **{EVALUATION: [1.0, 2.0]})
        group(tmp_path, task, "ppo", LOW[:3], **{EVALUATION: [1.0, 2.0]})
    (section,) = [s for s in told(tmp_path).sections if s.title == "Learning curves"]
    training, evaluation = section.figures
    assert (training.name, evaluation.name, len(training.panels)) == ("learning_curves", "evaluations", 2)
    names = [key.name for key in training.keys]
    assert names == ["ppo (3 runs, min to max)", "trpo (5 runs)"]
    drawn = draw_panels(training.panels, 1, 2, training.keys)
    assert not [axes for axes in drawn.axes if axes.get_legend()]
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == names
    render(drawn, "png")
    low = min(axes.get_tightbbox().y0 for axes in drawn.axes)
    assert legend.get_window_extent().y1 <= low, "it covers no curve and no name of an axis"
    assert {axes.get_ylabel() for axes in drawn.axes} == {"training return"}


def exact(directory: Path, algo: str, gamma: float, returns: list[float]) -> None:
    directory.mkdir(parents=True)
    node = {"choices": {"algo": algo, "sampler": "exact"}, "env": {"id": "FrozenLake-v1"}, "seed": 0, "policy": {}}
    (directory / "config.yaml").write_text(json.dumps({**node, "algo": {"gamma": gamma}, "total_steps": 2}))
    (directory / "summary.json").write_text("{}")
    rows = [f"{place + 1},{value}" for place, value in enumerate(returns)]
    (directory / "metrics.csv").write_text("\n".join(["env_steps,exact/return", *rows]) + "\n")


def test_discounted_returns_compare_at_the_same_discount_only(tmp_path: Path) -> None:
    for algo, gamma, last in (("trpo", 0.9, 0.07), ("cpi", 0.9, 0.06), ("trpo", 0.99, 0.5)):
        exact(tmp_path / f"{algo}{gamma}", algo, gamma, [0.01, last])
    made = told(tmp_path)
    results = made.sections[0].table
    assert results is not None
    assert [row[:4] for row in results.body()] == [
        [f"FrozenLake-v1, {GAMMA} = 0.9", "cpi", "1", "2"],
        [f"FrozenLake-v1, {GAMMA} = 0.9", "trpo", "1", "2"],
        [f"FrozenLake-v1, {GAMMA} = 0.99", "trpo", "1", "2"],
    ]
    assert results.head()[3:5] == ["iterations", "discounted return"]
    assert f"of 2 iterations. The highest mean discounted return on FrozenLake-v1, {GAMMA} = 0.9 is" in made.lead
    assert "environment steps" not in str([panel.alt for s in made.sections for f in s.figures for panel in f.panels])
    assert "All tasks together" not in [section.title for section in made.sections]


def test_hyperparameters_are_shown_where_they_differ_and_where_they_do_not(tmp_path: Path) -> None:
    settings = {
        "trpo": {"delta": 0.01, "gamma": 0.99, "lam": 0.97},
        "npg": {"delta": 0.02, "gamma": 0.99, "lam": 0.97},
        "ppo": {"gamma": 0.9, "lam": 0.97, "clip": 0.2},
    }
    for algo, own in settings.items():
        for task in ("Ant-v4", "Hopper-v4"):
            group(tmp_path, task, algo, [1.0])
            path = tmp_path / task / algo / "0" / "config.yaml"
            node = json.loads(path.read_text())
            node["choices"]["algo/surrogate"] = "clipped" if algo == "ppo" else None
            node["algo"] = {**own, "_target_": "a.b"} | ({"delta": 0.5} if (algo, task) == ("npg", "Ant-v4") else {})
            path.write_text(json.dumps(node))
    tables = {s.table.name: s.table for s in told(tmp_path).sections if s.table}
    assert tables["hyperparameters"].body() == [
        ["algo.delta", "0.5 (npg on Ant-v4); 0.02 (npg on Hopper-v4); 0.01 (trpo)"],
        ["algo.gamma", "0.9 (ppo); 0.99 (npg, trpo)"],
    ]
    assert tables["own_hyperparameters"].body() == [["algo.clip", "0.2 (ppo)"], ["algo/surrogate", "clipped (ppo)"]]
    assert tables["shared_hyperparameters"].body() == [["algo.lam", "0.97"], ["total_steps", "1000000"]]


def test_the_terminal_is_not_wider_than_120_columns(trpo_tables: Command, tmp_path: Path) -> None:
    more = {EVALUATION: 8.0, "rollout/recent_return_mean": [2.0, 3.0]}
    for algo in ("trpo", "trpo_empirical_fisher"):
        group(tmp_path / "runs", "InvertedDoublePendulum-v4", algo, [9000.0, 1234.5, 321.0], **more)
        group(tmp_path / "runs", "Hopper-v4", algo, HIGH, **more)
    done = trpo_tables("runs", "--out", "out")
    assert max(map(len, done.out.splitlines())) <= 120
    assert "(min" in done.out
    assert "more columns are in the page" in done.out


def test_the_page_has_a_contents_list_and_no_section_of_all_tasks_for_one(trpo_tables: Command, tmp_path: Path) -> None:
    group(tmp_path / "runs", "Hopper-v4", "trpo", HIGH, **{EVALUATION: 8.0})
    assert trpo_tables("runs", "--out", "out").status == 0
    page = (tmp_path / "out" / "report.html").read_text()
    titles = re.findall(r'<h2 id="([^"]+)">', page)
    assert titles == re.findall(r'<li><a href="#([^"]+)">', page)
    assert titles == ["results", "learning-curves", "sample-efficiency", "shared-hyperparameters", "time", "runs"]
    assert page.count('<ul class="legend">') == 1
    text = (tmp_path / "out" / "results.md").read_text()
    assert re.findall(r"!\[(.+?)\]", text) == [
        "training return against environment steps on Hopper-v4: trpo",
        "evaluation against environment steps on Hopper-v4: trpo",
    ]
    assert "<details><summary>Show" in page
    assert RETURN not in re.sub(r"data:image[^\"]+", "", page), "columns have names that people use"
    assert not (tmp_path / "out" / "profiles.png").exists()


def test_numbers_from_infos_have_a_table_and_a_figure(tmp_path: Path) -> None:
    infos = {"rollout/info/is_success": [0.1, 0.6], "eval/info/is_success": [np.nan, 0.9]}
    group(tmp_path, "Hopper-v4", "trpo", HIGH, **infos)
    (section,) = [s for s in told(tmp_path).sections if s.title == "Numbers from infos"]
    assert section.table is not None
    assert section.table.body() == [["Hopper-v4", "trpo", "is_success", "5", "0.6", "0.6 to 0.6", "0.9", "0.9 to 0.9"]]
    (figure,) = section.figures
    assert [panel.alt.partition(" against")[0] for panel in figure.panels] == [
        "is_success (evaluation)",
        "is_success (training)",
    ]
