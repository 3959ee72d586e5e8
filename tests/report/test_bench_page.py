"""The page of a benchmark and its Markdown twin hold every figure with its kind, and whatever is missing says why."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from markdown_it import MarkdownIt

from edgedistill.report.bench_page import markdown, page
from edgedistill.report.figures import number, shown
from edgedistill.report.markdown import escaped
from edgedistill.report.memory import split
from edgedistill.report.pareto import Contestant, marked, of_alternatives
from edgedistill.report.plots import Scale
from edgedistill.report.runs import columns
from edgedistill.types import Cell, Comparison, Estimate, Measurement, NotMeasured, Result, Taken

Make = Callable[..., Result]
Tables = list[list[list[str]]]

HOSTILE = "<script>alert(1)</script> | a\n# b `c` **d** ![e](https://f) [g](https://h) <img src=x> &amp; {{ 7 * 7 }}"
COMPARISONS = (
    Comparison(name="latency", link="local", verdict="worse", ratio=Estimate(value=1.07, low=1.04, high=1.11)),
    Comparison(name="throughput", link="local", verdict="equal", ratio=Estimate(value=0.99, low=0.96, high=1.02)),
    Comparison(name="memory_process", link="emulated://cortex-a72", verdict="better", ratio=None, note="by eye"),
    Comparison(name="latency", link="browser://", verdict="not comparable", note="the earlier run is unstable"),
)
ALTERNATIVES = (
    {"recipe": "int4", "size_bytes": 4e6, "quality": 0.90, "speed": 0.9, "passed": False, "reason": "lost 0.05"},
    {
        "recipe": "int8",
        "size_bytes": 7e6,
        "quality": 0.948,
        "speed": 0.7,
        "speed_interval": [0.68, 0.72],
        "passed": True,
    },
    {"recipe": "fp32", "size_bytes": 25e6, "quality": 0.949, "speed": 1.9, "passed": True},
    {"recipe": "fp16", "size_bytes": 26e6, "quality": 0.949, "speed": 1.9, "passed": True},
)


class Html(HTMLParser):
    """The tables of a page, its visible words, and the tags that it is made of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.source = html
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text: list[str] = []
        self.tables: Tables = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "meta":
            return
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"th", "td"}:
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text.append(data)
        if {"th", "td"} & set(self.open):
            self.tables[-1][-1][-1] += f" {data}"

    @property
    def words(self) -> str:
        return plain(" ".join(self.text))


def plain(text: str) -> str:
    return " ".join(text.replace("\N{NO-BREAK SPACE}", " ").split())


def tables_of(text: str) -> Tables:
    """The tables of a Markdown text as a GitHub reader sees them."""
    found: Tables = []
    inside = False
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        inside = token.type == "table_open" or (inside and token.type != "table_close")
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("th_open", "td_open"):
            found[-1][-1].append("")
        elif token.type == "inline" and inside:
            words = (child.content for child in token.children or () if child.type in ("text", "html_inline"))
            found[-1][-1][-1] = "".join(words)
    return found


def cells(tables: Tables, *head: str) -> Iterator[tuple[str, str]]:
    """Row title and cell of every column whose head has all of these words."""
    for names, *rows in tables:
        for place, name in enumerate(names):
            if all(word in name for word in head):
                yield from ((plain(row[0]), plain(row[place])) for row in rows)


@pytest.fixture(scope="module")
def three(make_result: Make) -> tuple[Result, Html, str]:
    """Three devices and two baselines, with everything that a page can hold."""
    result = make_result()
    more: dict[str, Any] = {"comparisons": COMPARISONS, "alternatives": ALTERNATIVES}
    before = replace(result, created="2026-02-27T09:00:00Z")
    return result, Html(page(result, before, **more)), markdown(result, before, **more)


@pytest.fixture(scope="module")
def decoder(make_decoder_result: Make) -> tuple[Result, Html, str]:
    result = make_decoder_result()
    return result, Html(page(result)), markdown(result)


def expected(found: Measurement) -> str:
    """A measurement's median as it must be shown: with its unit, to the digits that its interval justifies."""
    if found.interval is None:
        return plain(number(found.median, found.unit))
    return plain(shown(Estimate(value=found.median, low=found.interval[0], high=found.interval[1]), found.unit))


@pytest.mark.parametrize("which", ["three", "decoder"])
def test_every_figure_stands_in_page_and_twin_under_its_device_with_unit_and_kind(
    which: str, request: pytest.FixtureRequest
) -> None:
    result, html, twin = request.getfixturevalue(which)
    for tables in (html.tables, tables_of(twin)):
        places = {run.link: run.title for run in result.runs if run.contender == "bundle"}
        for run in result.runs:
            there = {cell for _, cell in cells(tables, places[run.link], run.kind)}
            measured = [item for item in run.measurements if isinstance(item, Measurement)]
            assert len(measured) > 6
            for item in measured:
                assert any(cell.startswith(expected(item)) for cell in there), (run.title, item.name)
            size = plain(number(run.file_bytes, "bytes"))
            assert any(cell.startswith(size) for cell in there)


def test_percentiles_have_bootstrap_intervals_that_know_of_rounds(make_result: Make) -> None:
    result = make_result()
    run = result.runs[0]
    rounds = [[1.0 + 0.001 * place for place in range(60 + number)] for number in range(3)]
    rounds[2] = [2 * value for value in rounds[2]]
    pooled = tuple(value for values in rounds for value in values)
    latency = Measurement(name="latency", unit="ms", kind="measured", values=pooled)
    taken = tuple(
        Taken(cell=Cell(what="timing", threads=threads), round=number, samples={"latency_ms": values})
        for number, values in enumerate(rounds)
        for threads in (1, 2)  # those of the sweep's other settings are not drawn from
    )
    known, unknown = (
        columns(replace(result, runs=(replace(run, measurements=(latency,), taken=found),)))[0].quantiles("latency")
        for found in (taken, ())
    )
    for (name, with_rounds), (_, without) in zip(known[:2], unknown[:2], strict=True):
        assert with_rounds is not None
        assert without is not None
        assert with_rounds.low <= with_rounds.value <= with_rounds.high
        # A round is slower than the others: only who draws rounds knows that p90 may lie there or not.
        assert with_rounds.high - with_rounds.low > 3 * (without.high - without.low), name
    few = replace(run, measurements=(replace_values(latency, pooled[:20]),), taken=())
    assert columns(replace(result, runs=(few,)))[0].quantiles("latency")[2] == ("p99", None)
    assert "too few samples to see so rare a value" in markdown(replace(result, runs=(few,)))


def replace_values(found: Measurement, values: tuple[float, ...]) -> Measurement:
    return Measurement(name=found.name, unit=found.unit, kind=found.kind, values=values)


def test_figures_of_two_kinds_never_share_a_column(make_result: Make) -> None:
    result = make_result()
    run = result.runs[0]
    others = (
        Measurement(name="latency", unit="ms", kind="emulated", values=(777.0, 778.0, 779.0) * 4),
        Measurement(name="energy", unit="J", kind="predicted", values=(0.0333,), interval=(0.02, 0.05)),
    )
    kept = tuple(item for item in run.measurements if item.name != "energy")
    mixed = replace(run, measurements=(*kept, *others))
    ratio = replace(result.ratios[0], kind="predicted", estimate=Estimate(value=31.5, low=30.9, high=32.1))
    text = markdown(replace(result, runs=(mixed,), ratios=(*result.ratios[:1], ratio)))
    tables = tables_of(text)
    by_kind = {kind: dict(cells(tables[1:2], kind)) for kind in ("measured", "emulated", "predicted")}
    assert by_kind["emulated"]["Latency, p50"].startswith("778.0 ms")
    assert by_kind["predicted"]["Energy for one answer"].startswith("0.03")
    assert by_kind["measured"]["Latency, p50"].startswith("0.7")
    assert by_kind["measured"]["Energy for one answer"].startswith("not measured (")
    assert "it was predicted: see that column" in text
    assert [cell for cell in dict(cells(tables, "Against", "measured")).values() if "31.5" in cell] == []
    assert any("31.5" in cell for _, cell in cells(tables, "Against", "predicted"))
    # A chart has one kind as well: the emulated times are in a drawing of their own.
    drawn = text.split("### Time for one text")[1:]
    assert ["778.0 ms" in part for part in drawn] == [False, True]


def test_what_changed_is_told_by_kind_with_a_verdict(three: tuple[Result, Html, str]) -> None:
    _, html, twin = three
    for tables in (html.tables, tables_of(twin)):
        (measured, emulated) = (rows[1:] for rows in tables if "Now over before" in plain(" ".join(rows[0])))
        verdicts = [
            plain(row[1]).replace("✗ ", "").replace("✓ ", "").split("(")[0].split(" the")[0] for row in measured
        ]
        assert [verdict.strip() for verdict in verdicts] == ["worse", "equal", "not comparable"]
        assert "This machine" in measured[0][0]
        assert "Cortex-A72" in emulated[0][0]
        assert "1.07×" in plain(measured[0][2])
        assert plain(measured[2][1]) == "not comparable (1)"
    assert "(1) the earlier run is unstable" in html.words
    assert "1 not comparable" in html.words
    assert "1 figure worse than before" in html.words
    assert "2026-02-27 09:00 UTC, the same bundle" in html.words


def test_a_run_before_without_comparisons_is_shown_without_a_verdict(make_result: Make) -> None:
    text = markdown(make_result(), make_result())
    assert "No verdict: the two runs were not compared." in text
    assert "worse than before" not in text
    assert "Against the run before" not in markdown(make_result())


def test_what_is_missing_says_why_and_what_would_bring_it(three: tuple[Result, Html, str]) -> None:
    result, html, twin = three
    missing = [item for run in result.runs for item in run.measurements if isinstance(item, NotMeasured)]
    assert len({item.reason for item in missing}) == 2
    for item in missing:
        said = f"{item.reason}; {item.remedy}"
        assert said in html.words
        assert said in plain(twin)
    emulated = dict(cells(html.tables, "Cortex-A72", "emulated", "cortex-a72"))
    reference = re.fullmatch(r"not measured (\(\d\))", emulated["Latency, p99"])
    assert reference is not None
    assert f"{reference[1]} an emulated processor" in html.words
    assert "it is no endpoint with prices" in html.words


def test_every_reference_to_a_reason_has_its_reason_under_the_table(three: tuple[Result, Html, str]) -> None:
    _, _, twin = three
    for part in re.split(r"\n(?=\*\*|#)", twin):
        asked = set(re.findall(r"not measured (\(\d+\))", part))
        assert asked <= set(re.findall(r"^- (\(\d+\))", part, flags=re.MULTILINE))


def test_the_page_loads_nothing_and_is_whole(three: tuple[Result, Html, str]) -> None:
    _, read, _ = three
    html = read.source
    assert not re.search(
        r"(?:src|href|srcset|action|data)\s*=|@import|url\(|@font-face|<script|<link|<iframe|\son\w+=|https?://", html
    )
    assert "default-src 'none'" in html
    assert "@media print" in html
    assert "prefers-color-scheme: dark" in html
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert read.open == []
    assert all(rows[0] and all(len(row) == len(rows[0]) for row in rows) for rows in read.tables)


def test_the_head_says_what_ships_how_fast_how_big_how_good_and_where(three: tuple[Result, Html, str]) -> None:
    result, html, twin = three
    for text in (html.words, plain(twin)):
        head = text.split("Devices side by side")[0]
        for said in (
            "clinc150 for raspberrypi5",
            "23.7× faster and 13.7× smaller than the teacher in PyTorch",
            "keeping 98.9 % of its accuracy (98.3 to 99.4).",
            "4 of 4 timed runs stable",
            "On This machine (local)",
            "measured",
            "6.65 MB",
            "94.8 %",
            "onnxruntime 1.26.0, 2 threads, recipe onnx-int8-dynamic, digest 89020a7fd247, 2026-03-02 14:05 UTC",
        ):
            assert said in head
        assert expected(result.runs[0].measurements[0]) in head  # type: ignore[arg-type]


def test_an_unstable_run_is_marked_and_says_why(decoder: tuple[Result, Html, str]) -> None:
    result, html, twin = decoder
    (unstable,) = (run for run in result.runs if not run.stable)
    for text in (html.words, plain(twin)):
        assert "Bundle on Raspberry Pi 5 unstable" in text.split("Devices side by side")[0]
        assert unstable.reasons[0] in text
    assert list(cells(html.tables, "Raspberry Pi 5", "unstable"))
    assert not list(cells(html.tables, "This machine", "unstable"))
    how = dict(cells(html.tables, "The bundle", "Raspberry Pi 5"))
    assert how["Drift of the same texts, before to after"] == "+8.9 %"
    assert how["Other programs' load"] == "0.4 cores"


def test_what_was_asked_for_is_told_where_something_else_was_in_effect(three: tuple[Result, Html, str]) -> None:
    _, html, _ = three
    assert dict(cells(html.tables, "The bundle", "Cortex-A72", "emulated"))["Threads"] == "1 asked for 2"
    assert dict(cells(html.tables, "The bundle", "This machine"))["Threads"] == "2"


def test_the_threads_in_use_are_marked(three: tuple[Result, Html, str]) -> None:
    _, html, twin = three
    for tables in (html.tables, tables_of(twin)):
        (rows,) = (rows for rows in tables if rows[1][0].strip() == "1 thread")
        assert ["in use" in row[1] for row in rows[1:]] == [False, True, False]
        assert "0.71 ms" in plain(rows[2][1])
        assert plain(rows[3][2]) == "not measured (1)"


def test_a_decoder_shows_every_length_of_prompt_and_what_its_answers_cost(decoder: tuple[Result, Html, str]) -> None:
    _, html, twin = decoder
    for tables in (html.tables, tables_of(twin)):
        rows = [name for name, _ in cells(tables, "The bundle", "This machine") if "tokens" in name]
        for length in ("64", "256", "1,024"):
            assert f"Tokens written a second, {length} tokens" in rows
            assert f"Time between two tokens, p99, {length} tokens" in rows
    assert "1,000 of the teacher's answers cost $0.42" in html.words
    assert "On Raspberry Pi 5 (ssh://pi@kitchen) they take 1.14 Wh (measured)" in html.words


def test_one_device_alone_has_a_page(make_result: Make) -> None:
    result = make_result()
    alone = replace(result, runs=result.runs[:1], ratios=())
    html = Html(page(alone))
    assert "0.780 ms a text, p50, 6.65 MB file, 94.8 % accuracy." in html.words
    assert "no teacher went through this benchmark" in html.words
    assert not [rows for rows in html.tables if "On the front" in rows[0][-1]]


def test_a_run_that_failed_says_so_and_is_not_called_unstable(make_result: Make) -> None:
    result = make_result()
    gone = NotMeasured(name="latency", reason="the link broke after 12 s", remedy="plug it in")
    failed = replace(result.runs[2], stable=False, measurements=(gone,), taken=(), sweep=(), accuracy=None)
    text = markdown(replace(result, runs=(result.runs[0], failed), ratios=()))
    assert "✗ Bundle on Chromium, desktop failed" in text
    assert "- Bundle on Chromium, desktop: the link broke after 12 s." in text
    assert re.search(r"^- \(\d\) the link broke after 12 s; plug it in$", text, flags=re.MULTILINE)
    assert "unstable" not in text.split("## Whether to believe it")[0]


def test_a_page_of_failures_begins_with_the_reason(make_result: Make) -> None:
    result = make_result()
    gone = NotMeasured(name="latency", reason="the link broke after 12 s", remedy="plug it in")
    failed = replace(result.runs[0], stable=False, measurements=(gone,), taken=(), sweep=(), accuracy=None)
    text = markdown(replace(result, runs=(failed,), ratios=()))
    flat = text.replace("\xa0", " ")
    assert f"**Not measured on {failed.title} ({failed.link}): the link broke after 12 s.**" in flat
    assert "p50" not in text.split("## Devices")[0]
    assert "failed" in text
    assert "measured failed" not in text
    assert "## At a glance" not in text
    (threads,) = (line for line in text.splitlines() if line.startswith("| Threads"))
    assert "not measured (1)" in threads
    assert "chosen by trying" not in threads


def test_a_page_of_a_stopped_benchmark_says_so_in_its_head(make_result: Make) -> None:
    result = make_result()
    run = replace(result.runs[0], stable=False, accuracy=None, reasons=("the benchmark was stopped after 2 of 5",))
    text = markdown(replace(result, runs=(run,), ratios=()))
    head = text.split("## ")[0]
    assert "✗ Stopped before its end" in head
    assert "not measured accuracy" not in head


def test_runs_that_cannot_be_compared_are_no_good_news(make_result: Make) -> None:
    untold = (COMPARISONS[3], replace(COMPARISONS[3], link="local"))
    text = markdown(make_result(), make_result(), comparisons=untold)
    assert "- Nothing comparable with the run before" in text
    assert "worse than before" not in text
    mended = markdown(make_result(), make_result(), comparisons=(*untold, COMPARISONS[1]))
    assert "- ✓ No figure worse than before\n- 2 not comparable" in mended


def test_a_slower_teacher_stands_beside_its_own_figures_and_is_no_bad_news(make_result: Make) -> None:
    result = make_result()
    (teacher,) = (run for run in result.runs if run.contender == "teacher")
    shown_ = number(next(one.median for one in teacher.measurements if one.name == "latency"), "ms").replace(
        "\xa0", " "
    )  # type: ignore[union-attr]
    text = markdown(result, result, comparisons=(COMPARISONS[1], replace(COMPARISONS[0], contender="teacher")))
    (row,) = (line for line in text.splitlines() if "teacher, PyTorch on local" in line and "worse" in line)
    assert row.replace("\xa0", " ").count(shown_) == 2
    assert "No figure worse than before" in text
    text = markdown(result, result, comparisons=(COMPARISONS[3], replace(COMPARISONS[1], contender="teacher")))
    assert "- Nothing comparable with the run before" in text


def test_no_run_at_all_is_said(make_result: Make) -> None:
    text = markdown(make_result(runs=(), ratios=()))
    assert "The bundle was not measured." in text
    assert "the bundle ran nowhere" in text


def test_hostile_text_is_shown_and_is_no_markup(three: tuple[Result, Html, str], make_result: Make) -> None:
    _, plain_html, _ = three
    every = make_result()
    result = replace(every, runs=(replace(every.runs[0], sweep=()), every.runs[3]))
    runs = tuple(
        replace(
            run,
            title=f"{HOSTILE} {run.title}",
            link=f"{HOSTILE} {run.link}",
            engine=HOSTILE,
            stable=False,
            reasons=(HOSTILE,),
            environment={HOSTILE: HOSTILE, "packages": {HOSTILE: HOSTILE}},
            measurements=(*run.measurements, NotMeasured(name=HOSTILE, reason=HOSTILE, remedy=HOSTILE)),
        )
        for run in result.runs
    )
    hostile = make_result(
        version=HOSTILE,
        created=HOSTILE,
        bundle={**result.bundle, "name": HOSTILE, "target": HOSTILE, "digest": HOSTILE, HOSTILE: HOSTILE},
        workload={HOSTILE: HOSTILE},
        runs=runs,
        ratios=tuple(replace(ratio, link=f"{HOSTILE} {ratio.link}") for ratio in result.ratios),
        remarks=(HOSTILE,),
    )
    more: dict[str, Any] = {
        "comparisons": (Comparison(name=HOSTILE, link=HOSTILE, verdict="worse", note=HOSTILE),),
        "alternatives": ({**ALTERNATIVES[0], "recipe": HOSTILE, "reason": HOSTILE}, *ALTERNATIVES[1:]),
    }
    html = page(hostile, hostile, **more)
    read = Html(html)
    assert read.open == []
    assert read.tags <= plain_html.tags
    assert "<script" not in html
    assert plain(HOSTILE) in read.words
    twin = markdown(hostile, hostile, **more)
    tokens = MarkdownIt("commonmark").enable("table").parse(twin)
    inside = {child.type for token in tokens for child in token.children or ()}
    assert inside <= {"text", "text_special", "strong_open", "strong_close", "em_open", "em_close"}
    assert not {token.type for token in tokens} & {"html_block", "blockquote_open", "code_block"}
    headings = [token.type for token in tokens].count("heading_open")
    usual = markdown(result, result, comparisons=COMPARISONS[:1], alternatives=ALTERNATIVES)
    assert headings == len(re.findall("^#+ ", usual, flags=re.MULTILINE))
    shapes = [[len(row) for row in rows] for rows in tables_of(twin)]
    assert all(len(set(widths)) == 1 for widths in shapes)


@pytest.mark.parametrize(
    "words",
    ["# a", "> a", "- a", "+ a", "1. a", "12) a", "---", "===", "a | b", "`a`", "*a*", "_a_", "~~a~~", "<b>a</b>",
     "&lt;", "[a](b)", "![a](b)", "<https://a>", "a\\", "    a", "a\n\n# b", "```", "|a|\n|-|", "*", "a_b_c",
     "2.24 ms", "+0.9 %"],
)  # fmt: skip
def test_any_words_are_one_paragraph_that_reads_the_same(words: str) -> None:
    tokens = MarkdownIt("commonmark").enable("table").enable("strikethrough").parse(escaped(words))
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    (children,) = (token.children or [] for token in tokens if token.type == "inline")
    assert {child.type for child in children} <= {"text", "text_special"}
    assert "".join(child.content for child in children) == " ".join(words.split())


@pytest.mark.parametrize(
    "usual", ["2.24 ms", "0.98× (0.94 to 1.03)", "emulated://cortex-a72", "onnx-int8", "a_b", "+0.9 %"]
)
def test_usual_words_are_readable_in_a_terminal_as_they_are(usual: str) -> None:
    assert escaped(usual) == usual


def test_an_axis_is_logarithmic_where_values_are_far_apart_and_every_sample_is_counted() -> None:
    near, far = [2.0, 2.1, 2.4, 7.9], [2.0, 2.1, 2.4, 8.0]
    assert not Scale(near, 10).logarithmic
    assert Scale(far, 10).logarithmic
    for values in (near, far, [3.0, 3.0]):
        scale = Scale(values, 10)
        assert sum(scale.counts(values)) == len(values)
        assert scale.edges[0] < min(values) <= max(values) < scale.edges[-1]


def test_the_parts_of_a_process_add_up_to_it() -> None:
    found = {"memory_process": 66.8e6, "memory_model": 10.6e6, "memory_model_anonymous": 3.9e6, "memory_peak": 71e6}
    parts = split(found)
    assert parts is not None
    assert parts.total == pytest.approx(66.8e6)
    assert parts.parts["exported"] == pytest.approx(6.7e6)
    assert parts.peak == 71e6
    given_back = split({**found, "memory_model_anonymous": -1e6, "memory_model_file": 11.6e6, "memory_model_swap": 2e6})
    assert given_back is not None
    assert given_back.parts["student"] == 0
    assert given_back.parts["control"] == 2e6
    assert split({"memory_process": 5.0}) is None


def test_the_front_holds_what_no_other_file_beats(three: tuple[Result, Html, str]) -> None:
    found = {one.title: one.best for one in of_alternatives(ALTERNATIVES)}
    assert found == {"int4": False, "int8": True, "fp32": True, "fp16": False}
    _, html, twin = three
    for tables in (html.tables, tables_of(twin)):
        rows = next(rows for rows in tables if any("int4" in row[0] for row in rows))
        assert [("does not hold" in row[-1], "yes" in row[-1]) for row in rows[1:]] == [
            (True, False), (False, True), (False, True), (False, False)
        ]  # fmt: skip


def test_speeds_whose_intervals_overlap_are_equal_and_more_tokens_a_second_are_better() -> None:
    def one(title: str, low: float, high: float, size: float = 1.0) -> Contestant:
        speed = Estimate(value=(low + high) / 2, low=low, high=high)
        return Contestant(title=title, size_bytes=size, quality=None, speed=speed)

    def best(*contestants: Contestant, unit: str) -> list[str]:
        return [found.title for found in marked(contestants, unit=unit) if found.best]

    assert best(one("a", 1.0, 1.2), one("b", 1.1, 1.3), unit="ms") == ["a", "b"]
    assert best(one("a", 1.0, 1.2), one("b", 1.3, 1.4), unit="ms") == ["a"]
    assert best(one("a", 1.0, 1.2), one("b", 1.3, 1.4), unit="tokens/s") == ["b"]
    assert best(one("a", 1.0, 1.2), one("b", 1.1, 1.3, size=2.0), unit="ms") == ["a"]
