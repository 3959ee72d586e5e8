"""A student that writes is as deep and as wide as its configuration says, or is refused before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from edgedistill import pipeline, tasks
from edgedistill.config import Request
from edgedistill.distill import decoder, generative
from edgedistill.distill.piece import Piece, piece_for
from edgedistill.errors import InputError
from edgedistill.store import Store
from edgedistill.teachers.local import quiet
from tests.distill.chats import chat_tokenizer

WORDS = ("light", "song", "door", "kitchen", "hall", "jazz", "play", "lock")


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Conversations in which a word is said back, no two alike."""
    pairs = [(one, other) for one in WORDS for other in WORDS if one != other][first : first + count]
    return [
        {"messages": [{"role": "user", "content": f"{one} {other}"}, {"role": "assistant", "content": one}]}
        for one, other in pairs
    ]


def writer(folder: Path, **sizes: int) -> Path:
    """A random Llama with a chat template."""
    tokenizer = chat_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.convert_tokens_to_ids("<pad>"),
        **{
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            **sizes,
        },
    )
    with quiet():
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def request(**sections: dict[str, Any]) -> Request:
    return Request.model_validate({"task": "conversation", "data": {"max_tokens": 96}, **sections})


def made(teacher: Path, folder: Path, **student: Any) -> Piece:
    task = tasks.find("conversation")
    with Store(folder) as store:
        return piece_for(generative.find(str(teacher)), task, rows(40), "rows", request(student=student), store=store)[
            0
        ]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return writer(tmp_path_factory.mktemp("llama"))


def test_widths_of_the_configuration_reach_a_checkpoint_that_loads(tmp_path: Path, llama: Path) -> None:
    (tmp_path / "rows").mkdir()
    for split, count, first in (("train", 38, 0), ("validation", 6, 38), ("test", 12, 44)):
        lines = "".join(json.dumps(row) + "\n" for row in rows(count, first))
        (tmp_path / "rows" / f"{split}.jsonl").write_text(lines)
    wanted = request(
        data={"folder": str(tmp_path / "rows"), "max_tokens": 96},
        teacher={"model": str(llama)},
        student={"layers": 2, "width": 32, "ffn": 64},
        distill={"hidden_weight": 0.5, "relation_weight": 0.1, "learning_rate": 2e-3, "batch_tokens": 512},
    )
    done = pipeline.distill(wanted.model_copy(update={"out": tmp_path / "dist"}))
    model = AutoModelForCausalLM.from_pretrained(done.folder)
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (2, 32, 64)
    assert done.training["parameters"]["student"] == sum(weight.numel() for weight in model.parameters())
    assert not [name for name in model.state_dict() if "projection" in name]
    assert {"ce", "kd", "hidden", "relation"} <= done.training["curves"]["student"][0].keys()
    assert "hidden" not in done.training["curves"]["control"][0]
    (line,) = (line for line in done.training["explanation"] if line.startswith("student: "))
    assert "32 of 64 hidden dimensions" in line
    assert "64 of 96 inner units" in line


def test_the_widths_that_stay_are_those_that_do_most_on_the_rows(tmp_path: Path, llama: Path) -> None:
    piece = made(llama, tmp_path, width=32, ffn=32, layers=3)
    assert piece.importance is not None
    model = decoder.load_student(llama)
    trimmed = generative.trimmed_for(
        generative.tokenizer_of(llama), tasks.find("conversation"), rows(40), request(student={"width": 32})
    )
    student = generative.made_of(generative.find(str(llama)), trimmed, piece)
    assert sum(weight.numel() for weight in student.parameters()) == piece.shape.parameters
    dimensions = piece.importance.hidden.topk(32).indices.sort().values
    for layer in range(3):
        units = piece.importance.units[layer].topk(32).indices.sort().values
        theirs = model.get_submodule(f"model.layers.{layer}.mlp.up_proj").weight
        ours = student.get_submodule(f"model.layers.{layer}.mlp.up_proj").weight
        assert torch.equal(ours, theirs[units][:, dimensions])  # type: ignore[index]


def test_a_student_of_its_teachers_widths_asks_nothing_of_the_rows(tmp_path: Path, llama: Path) -> None:
    piece = made(llama, tmp_path, width=64, ffn=96)
    assert piece.importance is None
    assert (piece.shape.hidden, piece.shape.ffn, len(piece.shape.layers)) == (64, 96, 2)


def test_widths_are_snapped_to_what_files_pack_well(tmp_path: Path) -> None:
    teacher = writer(tmp_path / "wide", hidden_size=256, intermediate_size=768)
    piece = made(teacher, tmp_path / "store", width=160, ffn=448)
    assert (piece.shape.hidden, piece.shape.ffn) == (160, 512)
    assert "512 instead of 448: a multiple of 256, the block of k-quants" in str(piece)


@pytest.mark.parametrize(
    ("heads", "student", "said", "hint"),
    [
        (4, {"width": 96}, r"width is 96, and the teacher has no more than 64", "at most 64"),
        (4, {"ffn": 128}, r"ffn is 128, and the teacher has no more than 96", "at most 96"),
        (6, {"width": 64}, r"width cannot be 64: .*not a multiple of the number of attention heads", "have: 96"),
    ],
)
def test_a_width_that_cannot_be_is_refused(
    tmp_path: Path, heads: int, student: dict[str, int], said: str, hint: str
) -> None:
    hidden = 64 if heads == 4 else 192
    teacher = writer(tmp_path / "teacher", hidden_size=hidden, num_attention_heads=heads)
    with pytest.raises(InputError, match=said) as caught:
        made(teacher, tmp_path / "store", **student)
    assert hint in str(caught.value.hint)
