"""The teacher as its user has it: PyTorch and its own tokenizer, in a child process, through the same measuring loop.

python -m edgedistill.bench.teacher FOLDER --threads 2 --texts texts.json --what timing
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as untyped

from edgedistill.runtime import measure


def main() -> None:
    """Prints raw samples as JSON, like `python -m runtime measure`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--batch-rows", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--what", choices=["timing", "memory"], default="timing")
    options = parser.parse_args()
    logging: Any = untyped
    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    texts = json.loads(options.texts.read_text(encoding="utf-8"))

    def load() -> measure.Answer:
        tokenizer = AutoTokenizer.from_pretrained(options.folder, local_files_only=True)
        model = AutoModelForSequenceClassification.from_pretrained(
            options.folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
        ).eval()

        @torch.inference_mode()
        def answer(batch: Sequence[str]) -> Any:
            inputs = tokenizer(
                list(batch), padding=True, truncation=True, max_length=options.max_tokens, return_tensors="pt"
            )
            return model(**inputs).logits.numpy()

        return answer

    samples = (
        measure.memory(load, texts)
        if options.what == "memory"
        else measure.timing(load, texts, batch_rows=options.batch_rows)
    )
    sys.stdout.write(json.dumps(samples))


if __name__ == "__main__":
    main()
