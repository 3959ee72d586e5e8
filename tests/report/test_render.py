from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgedistill.report.figures import apart, decimals, interval, number, percentile, percentile_estimate, shown
from edgedistill.report.render import render, render_json, verdict
from edgedistill.types import Arm, Contrast, Estimate, Goal, Measurement, NotMeasured, Report, Subject

Make = Callable[..., Report]
KINDS = {"measured", "emulated", "predicted"}
HOSTILE = "<script>alert(1)</script>\"'&|#{{ 7 * 7 }}"
VOID = {"meta", "link", "img", "br", "hr", "input", "path", "line", "rect", "circle", "use"}


class Page(HTMLParser):
    """Reads a page: whether its tags balance, its visible text, its attributes, and the rows of its tables."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"th", "td"}:
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-1:]}"
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text.append(data)
        if {"th", "td"} & set(self.open):
            self.tables[-1][-1][-1] += data

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).replace("\N{NO-BREAK SPACE}", " ").split())


def kind_columns(page: Page) -> Iterator[list[str]]:
    """For every table with a kind column, what stands in it from top to bottom."""
    for head, *body in page.tables:
        if "Kind" in head:
            yield [row[head.index("Kind")] for row in body]


def sized(name: str, values: tuple[float, ...] = (1.0,), **more: Any) -> Measurement:
    return Measurement(**({"name": name, "unit": "ms", "kind": "measured", "values": values} | more))


def test_the_page_is_whole_small_and_loads_nothing(make_report: Make) -> None:
    html = render(make_report())
    page = Page(html)
    assert page.open == []
    assert len(html.encode()) < 1_000_000
    assert not re.search(
        r"(?:src|href|srcset|action|data)\s*=|@import|url\(|@font-face|<script|<link|<iframe|\son\w+=", html
    )
    assert not re.search(r"https?://", html)
    assert "default-src 'none'" in html
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert html.count("<svg") == 8


def test_the_title_names_the_model_and_the_board_and_the_verdict_is_one_sentence(make_report: Make) -> None:
    report = make_report()
    words = Page(render(report)).words
    assert f"intents on {report.device.place}" in words
    told = verdict(report).replace("\N{NO-BREAK SPACE}", " ")
    assert told == "14.2× smaller and 20.8× faster than the teacher, keeping 98.6 % of its accuracy (97.9 to 99.3)."
    assert told in words


def test_the_parts_stand_in_the_order_that_a_reader_expects(make_report: Make) -> None:
    html = render(make_report())
    places = [
        html.index(f'id="{name}"')
        for name in ("goals", "charts", "accuracy", "speed", "target", "export", "data", "built")
    ]
    assert places == sorted(places)


def test_hostile_text_is_shown_and_never_run(make_report: Make) -> None:
    plain = make_report()
    report = make_report(
        name=HOSTILE,
        version=HOSTILE,
        created=HOSTILE,
        environment={HOSTILE: HOSTILE},
        data={"source": HOSTILE, "counts": {HOSTILE: 3}},
        arms=tuple(Arm(name=arm.name, title=HOSTILE, metrics={HOSTILE: arm.metrics["accuracy"]}) for arm in plain.arms),
        contrasts=(Contrast(name=HOSTILE, title=HOSTILE, estimate=plain.contrasts[0].estimate, unit="ratio"),),
        goals=(Goal(title=HOSTILE, asked=1, value=2, unit="times", direction="at least", kind="measured", held=True),),
        subjects=tuple(
            Subject(name=s.name, title=HOSTILE, engine=HOSTILE, file_bytes=5, measurements=s.measurements)
            for s in plain.subjects
        ),
        on_target=(NotMeasured(name=HOSTILE, reason=HOSTILE, remedy=HOSTILE),),
        export={
            "recipe": HOSTILE,
            "file": HOSTILE,
            "ladder": [{"recipe": HOSTILE, "metric": HOSTILE, "drop": 0.1, "passed": True, "reason": HOSTILE}],
            "parity": {HOSTILE: HOSTILE},
        },
        seconds={HOSTILE: 1.0},
        remarks=(HOSTILE,),
    )
    html = render(report)
    page = Page(html)
    assert page.open == []
    assert "<script" not in html
    assert HOSTILE in page.words
    assert page.tags == Page(render(plain)).tags
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert any("&lt;script&gt;" in drawing for drawing in drawings)
    assert json.loads(render_json(report))["name"] == HOSTILE


def test_the_export_shows_its_sensitive_products_and_what_the_file_pays_for(make_report: Make) -> None:
    page = Page(render(make_report()))
    text = " ".join(page.text)
    assert "in float32: layer.1.ffn, head" in text
    worst = next(table for table in page.tables if any("layer.11.ffn" in row for row in table))
    assert [row[0] for row in worst[1:]] == [f"layer.{number}.ffn" for number in range(11, 3, -1)]
    assert worst[1][1:] == ["12", "1.1"]
    (fault,) = next(table for table in page.tables if "Cost" in table[0])[1:]
    assert fault == ["head <b>", "Float", "takes 4 times the memory"]


def test_what_is_missing_says_why_and_what_would_bring_it(make_report: Make) -> None:
    words = Page(render(make_report())).words
    assert "not measured: no Raspberry Pi 5 was connected; edgedistill bench BUNDLE --on ssh://pi@host" in words
    assert "not measured: PyTorch answers while it loads; measure with --split-load" in words


def test_no_column_mixes_kinds_and_every_figure_names_its_own(make_report: Make) -> None:
    report = make_report()
    mixed = tuple(
        Subject(
            name=side.name,
            title=side.title,
            engine=side.engine,
            file_bytes=side.file_bytes,
            measurements=(
                *side.measurements[:4],
                sized("memory_model", (5e6,), unit="bytes", kind="measured" if side.name == "teacher" else "emulated"),
                sized("memory_process", (9e6,), unit="bytes", kind="emulated"),
            ),
        )
        for side in report.subjects
    )
    on_target = (*report.on_target, sized("latency", (4.0, 4.1)), sized("latency", (3.0,), kind="predicted"))
    page = Page(render(make_report(subjects=mixed, on_target=on_target)))
    found = list(kind_columns(page))
    assert len(found) >= 7
    assert all(len(set(kinds)) == 1 for kinds in found)
    assert {kinds[0] for kinds in found} == KINDS | {"not measured"}
    assert "not measured: it was emulated, see that table" in page.words
    assert "Memory against the teacher: not measured: the two sides differ in kind" in page.words


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.3, 0.9, "Distillation did not beat the control: no difference shown"),
        (-1.2, -0.1, "The control is better than the distilled student"),
        (0.2, 1.1, "Distillation beat the control by"),
    ],
)
def test_whether_distilling_paid_is_said_plainly(make_report: Make, low: float, high: float, said: str) -> None:
    found = Estimate(value=(low + high) / 2, low=low, high=high)
    contrast = Contrast(name="distillation", title="Student minus control", estimate=found, unit="points")
    words = Page(render(make_report(contrasts=(contrast,)))).words
    assert said in words
    assert ("Control not beaten" in words) == (low <= 0)
    assert "accuracy kept not measured" in words


def test_a_ratio_whose_interval_holds_one_is_no_difference(make_report: Make) -> None:
    ratios = {"latency": Estimate(value=1.05, low=0.98, high=1.12), "size": Estimate(value=0.5, low=0.5, high=0.5)}
    report = make_report(ratios=ratios)
    words = Page(render(report)).words
    assert verdict(report).startswith("2.00× larger and no faster and no slower than the teacher")
    assert "no difference shown" in words
    assert "Throughput against the teacher: not measured" in words


def test_a_figure_without_an_interval_says_how_many_samples_it_is_the_median_of(make_report: Make) -> None:
    page = Page(render(make_report()))
    (cold_start,) = (row for table in page.tables for row in table if row[0] == "Cold start")
    assert all(cell.split()[-1] == "5" and "median of" in cell for cell in cold_start[2:])


@pytest.mark.parametrize(("runs", "said"), [(3, "median of 3 each"), (1, "one sample each")])
def test_only_what_was_counted_is_exact(make_report: Make, runs: int, said: str) -> None:
    report = make_report()
    sides = tuple(
        replace(side, measurements=(sized("memory_model", (5e6,) * runs, unit="bytes"),)) for side in report.subjects
    )
    ratios = {"size": Estimate(value=14.2, low=14.2, high=14.2), "memory": Estimate(value=8.5, low=8.5, high=8.5)}
    tables = Page(render(make_report(subjects=sides, ratios=ratios))).tables
    (rows,) = (table for table in tables if "Times better" in table[0])
    found = {row[0]: row[2] for row in rows}
    assert "exact" in found["Size of the file"]
    assert said in found["Memory"]
    assert "exact" not in found["Memory"]


def test_a_predicted_range_is_called_rough_and_never_an_interval(make_report: Make) -> None:
    page = Page(render(make_report()))
    (rows,) = (table[1:] for table in page.tables if "The board's budget" in table[0] and "predicted" in table[1])
    assert len(rows) == 3
    assert all("rough range" in row[2] for row in rows)


def test_an_unstable_measurement_is_marked(make_report: Make) -> None:
    report = make_report()
    settled = tuple(
        Subject(name=s.name, title=s.title, engine=s.engine, file_bytes=s.file_bytes, measurements=s.measurements[:1])
        for s in report.subjects
    )
    assert Page(render(report)).words.count("unstable") == 1
    assert "unstable" not in Page(render(make_report(subjects=settled))).words


def test_an_empty_report_says_so_everywhere(make_report: Make) -> None:
    report = make_report(
        arms=(), contrasts=(), goals=(), subjects=(), ratios={}, on_target=(), export={}, curves={}, seconds={},
        remarks=(), data={}, environment={},
    )  # fmt: skip
    html = render(report)
    words = Page(html).words
    assert "<svg" not in html
    for said in ("no arm was evaluated", "the benchmark was not run", "no curve was logged", "nothing was exported"):
        assert f"ot measured: {said}" in words
    assert json.loads(render_json(report))["arms"] == []


def test_the_json_holds_everything_and_no_nan(make_report: Make) -> None:
    report = make_report(environment={"cache": Path("a") / "b"})
    text = render_json(report)
    read = json.loads(text)
    assert read["schema"] == 1
    assert read["environment"]["cache"] == "a/b"
    assert read["on_target"][-1] == {
        "name": "latency",
        "reason": "no Raspberry Pi 5 was connected",
        "remedy": "edgedistill bench BUNDLE --on ssh://pi@host",
    }
    assert read["subjects"][1]["measurements"][0]["median"] == pytest.approx(report.subjects[1].measurements[0].median)  # type: ignore[union-attr]
    assert list(read) == sorted(read)
    assert "NaN" not in text
    with pytest.raises(ValueError, match="not JSON compliant"):
        render_json(make_report(seconds={"distill": math.nan}))


def test_a_loss_that_is_not_finite_does_not_cost_the_page(make_report: Make) -> None:
    curve = ({"step": 1.0, "loss": 2.0}, {"step": 2.0, "loss": math.nan})
    assert "student: loss from 2 to not finite" in Page(render(make_report(curves={"student": curve}))).words


def test_rendering_twice_gives_the_same_bytes(make_report: Make) -> None:
    assert render(make_report()) == render(make_report())
    assert render_json(make_report()) == render_json(make_report())


def test_percentiles_meet_the_ends_and_the_middle() -> None:
    assert [percentile([4, 1, 3, 2], share) for share in (0, 0.5, 1)] == [1, 2.5, 4]
    assert percentile([7.0], 0.99) == 7.0


def test_a_percentile_with_too_few_samples_has_no_estimate() -> None:
    assert percentile_estimate(range(99), 0.99) is None
    found = percentile_estimate([float(value) for value in range(1000)], 0.9)
    assert found is not None
    assert found.low < found.value < found.high


@pytest.mark.parametrize(
    ("value", "low", "high", "unit", "text", "bounds"),
    [
        (0.9863, 0.9791, 0.9934, "share", "98.6 %", "97.9 to 99.3"),
        (21.04, 18.2, 24.9, "times", "21×", "18 to 25"),
        (3.4, 2.1, 5.6, "ms", "3.4 ms", "2.1 to 5.6"),
        (353.2, 320.0, 390.0, "ms", "350 ms", "320 to 390"),
        (-0.18, -0.44, 0.09, "points", "−0.2 points", "−0.4 to +0.1"),
        (71_400_000, 70_100_000, 72_900_000, "bytes", "71.4 MB", "70.1 to 72.9"),
        (1234.5678, 1234.5677, 1234.5679, "rows/s", "1,235 rows/s", "1,235 to 1,235"),
        (14.187, 14.187, 14.187, "times", "14.2×", "14.2 to 14.2"),
        (0.0, 0.0, 0.0, "share", "0 %", "0 to 0"),
    ],
)
def test_a_figure_has_the_digits_that_its_interval_justifies(
    value: float, low: float, high: float, unit: str, text: str, bounds: str
) -> None:
    found = Estimate(value=value, low=low, high=high)
    assert shown(found, unit).replace("\N{NO-BREAK SPACE}", " ") == text
    assert interval(found, unit) == bounds


def test_a_figure_never_looks_like_the_bound_it_misses() -> None:
    assert apart(0.96996, 0.97, "share") == "96.996\N{NO-BREAK SPACE}%"
    assert apart(0.97, 0.97, "share") == "97\N{NO-BREAK SPACE}%"
    assert number(5.0, "ms") == "5\N{NO-BREAK SPACE}ms"
    assert decimals(0.0, 0.0, 0.0) == 0
