"""The arms of a static student: trained like those of an encoder, and judged by the file in 8 bits that ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer

from edgedistill.config import Request
from edgedistill.data.splits import Row
from edgedistill.distill import logits, static, teach
from edgedistill.distill.encoder import EVALUATED, ArmName, panel_inputs, schedule_of, settings_of
from edgedistill.distill.logits import Signal
from edgedistill.distill.losses import divergence_of
from edgedistill.runtime.engine_static import Classifier, tensors
from edgedistill.store import Output, Store, canonical
from edgedistill.teachers import local
from edgedistill.types import Progress, Rows, Split, silent

AT_ONCE = 256


def distil(
    arm: ArmName,
    teacher: Path,
    answers: Output,
    rows: Rows,
    splits: Mapping[Split, Sequence[Row]],
    request: Request,
    *,
    others: Sequence[Output] = (),
    store: Store,
    progress: Progress = silent,
) -> Output:
    """Trains one arm, and answers the validation and test rows with its file.

    Args:
        arm: "student" learns from the teacher, "control" from the labels alone.
        teacher: the fine-tuned checkpoint; the vectors start as its view of each piece.
        answers: what it said to every row.
        others: what the teachers beside it said to every row.
    """
    inputs = {
        "arm": arm,
        "kind": "static",
        "signals": answers.sha256,
        "rows": rows.sha256,
        "vocabulary": request.student.vocabulary,
        "settings": settings_of(arm, request.distill),
        "max_tokens": request.data.max_tokens,
        "seed": request.seed,
        **panel_inputs(arm, request, (answers, *others)),
    }

    def produce(folder: Path, work: Path) -> None:
        train = splits["train"]
        student, tokenizer, curve = static.distil(
            local.load(teacher, rows.labels),
            Tokenizer.from_file(str(teacher / teach.TOKENIZER)),
            train,
            rows.labels,
            teach.signal(answers, "train", train) if arm == "student" else None,
            schedule_of(request.distill, request.seed),
            vocabulary=request.student.vocabulary or static.VOCABULARY,
            max_tokens=request.data.max_tokens,
            work=work,
            temperature=request.distill.temperatures,
            kd_weight=request.distill.kd_weight,
            divergence=divergence_of(request.distill.divergence, beta=request.distill.beta, alpha=request.distill.skew),
            panel=teach.panel([answers, *others], rows, train, request) if others and arm == "student" else None,
            validation=splits["validation"],
            progress=progress,
        )
        static.save(student, tokenizer, folder)
        static.write_manifest(folder, rows.labels, request.data.max_tokens)
        (folder / teach.CURVE).write_bytes(canonical(curve))
        classifier = Classifier(folder)
        for split in EVALUATED:
            given = splits[split]
            texts = [row.content for row in given]
            said = [torch.from_numpy(classifier(texts[i : i + AT_ONCE])) for i in range(0, len(texts), AT_ONCE)]
            signal = Signal(keys=tuple(row.key for row in given), logits=torch.cat(said), hidden=None)
            logits.write(signal, folder / f"{split}.safetensors")

    return store.get(arm, inputs, produce, together=True)


def parameters(output: Output) -> int:
    """Number of weights in the file."""
    return sum(values.size for values in tensors(output.path / static.MODEL).values())
