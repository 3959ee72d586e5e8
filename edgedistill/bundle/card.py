"""The model card of a bundle: what it is for, how to run it, how good and how fast it is, with each number's kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgedistill.types import Contrast, Measurement, Report

MANY_LABELS = 40
FROM_LINES = "python -m runtime predict - < texts.txt    # {} a line; prints a JSON object for each"
TEXT = "one text"
IN_AN_APP = """\
import numpy, onnxruntime, onnxruntime_extensions

options = onnxruntime.SessionOptions()
options.register_custom_ops_library(onnxruntime_extensions.get_library_path())
session = onnxruntime.InferenceSession("{file}", options)
label, probabilities = session.run(None, {{"text": numpy.array(["your text"], dtype=object)}})
print(label[0], probabilities[0].max())"""


def card(report: Report, manifest: Mapping[str, Any]) -> str:
    """The card as Markdown with the metadata block that model hubs read."""
    labels = manifest["model"]["labels"]
    shown = ", ".join(f"`{label}`" for label in labels[:MANY_LABELS])
    more = f" and {len(labels) - MANY_LABELS} more" if len(labels) > MANY_LABELS else ""
    contrasts = {contrast.name: contrast for contrast in report.contrasts}
    accuracy = {arm.name: arm.metrics["accuracy"] for arm in report.arms}
    counts = report.data["counts"]
    lines = [
        "---",
        "pipeline_tag: text-classification",
        "library_name: onnxruntime",
        "tags: [edgedistill, distillation, quantized]",
        "---",
        f"# {report.name} on {report.device.place}",
        "",
        f"A text classifier with {len(labels)} labels, distilled from {report.data['teacher']}.",
        "",
        "## Run it",
        "",
        "```",
        "pip install -r requirements.txt",
        'python -m runtime predict "your text"',
        FROM_LINES.format(TEXT),
        "```",
        "",
        *_in_an_app(report.export.get("app")),
        "## How good it is",
        "",
        f"On {counts['test']} test rows, with 95 % intervals (paired bootstrap over rows).",
        "",
        "| | accuracy |",
        "| --- | --- |",
        *(f"| {arm.title} | {_interval(accuracy[arm.name], 100, '%')} |" for arm in report.arms),
        "",
        f"- kept of the teacher's accuracy: {_contrast(contrasts['retained'])}",
        f"- gained by distilling: {_contrast(contrasts['distillation'])}",
        "",
        "## How fast and how big it is",
        "",
        f"Measured on {report.environment['machine']}, not on the board, against the teacher in PyTorch: "
        + ", ".join(f"{_interval(e, 1, '×')} {_RATIOS[key]}" for key, e in report.ratios.items())
        + ".",
        "",
        f"Predicted for {report.device.place}, as rough ranges: "
        + ", ".join(_prediction(m) for m in report.plan.predictions)
        + ".",
        "",
        "## What it learned from",
        "",
        f"{counts['train']} training and {counts['validation']} validation rows ({report.data['source']}); "
        f"{report.data['rejected']} rows that cannot be used and {report.data['duplicates']} training duplicates were "
        f"left out, and {report.data['leaks']} training or validation rows whose text is also in a later split.",
        "",
        *_labelling(report.data.get("labelling")),
        f"Labels: {shown}{more}.",
        "",
        "## What it cannot do",
        "",
        f"It knows no other labels than these, and texts are cut after {manifest['model']['max_tokens']} pieces. "
        "It repeats what its teacher and the rows get wrong.",
        "",
        f"Made with edgedistill {report.version}, recipe {manifest['model']['recipe']}, engine "
        f"{manifest['engine']['name']} {manifest['engine']['version']}.",
        "",
    ]
    return "\n".join(lines)


def export_card(name: str, board: str, record: Mapping[str, Any]) -> str:
    """The card of a bundle that `edgedistill export` made of a checkpoint from elsewhere.

    Args:
        board: for people.
        record: what the export came to, as in `export.json`.
    """
    steps = [
        f"| {step['recipe']} | {_megabytes(step['size_bytes'])} | {_share(step['quality'])} | "
        f"{'yes' if step['passed'] else 'no'} | {step['reason']} |"
        for step in record["candidates"]
    ]
    fit = record["fit"]
    measured = (
        "" if fit["measured"] is None else f", measured on the machine that made it: {_megabytes(fit['measured'])}"
    )
    lines = [
        f"# {name} for {board}",
        "",
        f"A {record['kind']} model, exported with recipe {record['recipe']}.",
        "",
        "## Run it",
        "",
        "```",
        "pip install -r requirements.txt",
        f"python -m runtime {record['command']}",
        *([] if record["kind"] == "decoder" else [FROM_LINES.format(_a_line(record))]),
        "```",
        "",
        *_in_an_app(record["app"]),
        *(_measuring_it() if record["kind"] == "decoder" else []),
        "## Whether it answers like its checkpoint",
        "",
        f"Judged by {record['metric']} on {record['judged_on']}; the checkpoint has {_share(record['reference'])}.",
        "",
        f"| recipe | file | {record['metric']} | holds | why |",
        "| --- | --- | --- | --- | --- |",
        *steps,
        "",
        "Of the chosen file against the checkpoint: "
        + ", ".join(
            f"{key.replace('_', ' ')} {value:.4g}" for key, value in record["parity"].items() if value is not None
        )
        + ".",
        "",
        f"Memory predicted for the board: {_megabytes(fit['memory'])}{measured}.",
        "",
        *_writing(record["writing"]),
        *(line for note in record["notes"] for line in (note, "")),
    ]
    return "\n".join(lines)


def _writing(predicted: Mapping[str, Any]) -> list[str]:
    """How fast it is predicted to write on the board."""
    found = [one for one in predicted["measurements"] if one["name"] != "memory"]
    lines = [
        "| {} | {:.3g} | {:.3g} to {:.3g} | {} |".format(one["name"], one["median"], *one["interval"], one["unit"])
        for one in found
    ]
    called = " or ".join(dict.fromkeys(one["called"] for one in found))
    head = [f"| predicted, prompt @ tokens | value | {called} | unit |", "| --- | --- | --- | --- |"]
    return [*(head if lines else []), *lines, *([""] if lines else []), *(f"{line}." for line in predicted["why"]), ""]


def _in_an_app(app: Mapping[str, Any] | None) -> list[str]:
    """How an app takes text to a label, where the bundle has a file for that."""
    if app is None:
        return []
    packages = " ".join(f"{package}=={version}" for package, version in app["requires"].items())
    return [
        "## In an app",
        "",
        f"`{app['file']}` ({_megabytes(app['size_bytes'])}) holds the tokenizer too: text in, label and probabilities "
        "out, in every language that ONNX Runtime has, with the operators of onnxruntime-extensions. In Python:",
        "",
        "```",
        f"pip install {packages}",
        "```",
        "",
        "```python",
        *IN_AN_APP.format(file=app["file"]).splitlines(),
        "```",
        "",
        f"It gives {app['rows']:,} rows and {app['traps']} texts with accents, marks and emoji the labels that "
        f"`python -m runtime predict` gives them; no probability differs by more than {app['max_difference']:.1g}.",
        "",
    ]


def _measuring_it() -> list[str]:
    """How conversations are handed to `measure`."""
    return [
        "`python -m runtime measure --what writing --texts talks.json` times it. The file is a JSON list of questions, "
        "or of conversations, each a list of turns:",
        "",
        "```json",
        '["your question",',
        ' [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "your question"}]]',
        "```",
        "",
    ]


def _megabytes(value: float | None) -> str:
    return "" if value is None else f"{value / 1e6:.1f} MB"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _labelling(ledger: Mapping[str, Any] | None) -> list[str]:
    """Who labelled the rows and what it cost, when a teacher did."""
    if ledger is None:
        return []
    told = [
        f"{name} ({part['answered']:,} answers, {part['prompt_tokens'] + part['completion_tokens']:,} tokens, "
        + ("price unknown" if part["usd"] is None else f"${part['usd'] + part['lost_usd']:.4g}")
        + ")"
        for name, part in ledger["teachers"].items()
    ]
    accepted = sum(part["accepted"] for part in ledger["splits"].values())
    kept = sum(part["kept"] for part in ledger["splits"].values())
    return [f"{accepted:,} rows were labelled by {', '.join(told)}; {kept:,} came with their label.", ""]


_RATIOS = {"latency": "lower latency", "throughput": "throughput", "size": "smaller", "memory": "less model memory"}


def _interval(estimate: Any, scale: float, unit: str) -> str:
    value, low, high = (scale * x for x in (estimate.value, estimate.low, estimate.high))
    return f"{value:.1f} {unit}" if low == high else f"{value:.1f} {unit} ({low:.1f} to {high:.1f})"


def _contrast(contrast: Contrast) -> str:
    if contrast.unit == "ratio":
        return _interval(contrast.estimate, 100, "%")
    shown = "" if contrast.estimate.low > 0 or contrast.estimate.high < 0 else "; no difference shown"
    return _interval(contrast.estimate, 1, "points") + shown


def _prediction(measurement: Measurement) -> str:
    scale, unit = (1e-6, "MB") if measurement.unit == "bytes" else (1, measurement.unit)
    low, high = measurement.interval or (measurement.median, measurement.median)
    return f"{measurement.name.replace('_', ' ')} {low * scale:.2g} to {high * scale:.2g} {unit}"


def _a_line(record: Mapping[str, Any]) -> str:
    """What the runtime takes on a line."""
    if record["kind"] == "reader":
        return "a question, a tab and its context"
    return "one text, a tab and the other" if "\\t" in record["command"] else TEXT
