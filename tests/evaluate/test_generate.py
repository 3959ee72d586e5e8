"""Many answers at once are those that each prompt gets alone."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from edgedistill.errors import InputError
from edgedistill.evaluate.generate import generate
from tests.distill.decoders import ENDS, POSITIONS, VOCABULARY, decoder

LONGROPE = ["Phi-3-mini-128k-instruct", "Phi-4-mini-instruct"]
"""Other rotary factors for texts of more than 16 tokens: some prompts have more, and some answers cross the border."""
FAMILIES = [
    "SmolLM2-135M-Instruct", "Mistral-7B-Instruct", "gemma-2-2b-it", "gemma-3-1b-it", "Qwen3-0.6B", *LONGROPE,
]  # fmt: skip


def prompts(count: int = 23) -> list[list[int]]:
    """Of very different lengths, in no order."""
    chance = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, 30, (count,), generator=chance).tolist()
    return [torch.randint(5, VOCABULARY, (length,), generator=chance).tolist() for length in lengths]


def alone(model: PreTrainedModel, prompt: list[int], room: int) -> list[int]:
    """The answer by the definition of greedy decoding: the whole text anew for every token, no cache, no padding."""
    text = list(prompt)
    with torch.inference_mode():
        while len(text) < min(len(prompt) + room, POSITIONS):
            token = int(model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1].argmax())
            if token in ENDS:
                break
            text.append(token)
    return text[len(prompt) :]


@functools.cache
def all_alone(family: str) -> list[list[int]]:
    model = decoder(family)
    return [alone(model, prompt, 12) for prompt in prompts()]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_tokens", [1, 100, 100_000])
def test_answers_are_those_of_one_prompt_at_a_time(family: str, batch_tokens: int) -> None:
    model, expected = decoder(family), all_alone(family)
    assert len({len(answer) for answer in expected}) > 1, "rows must end at different steps to try anything"
    found = generate(model, prompts(), ends=ENDS, max_new_tokens=12, batch_tokens=batch_tokens)
    assert found == expected


@pytest.mark.parametrize("family", LONGROPE)
@pytest.mark.parametrize("lengths", [(3, 16, 12), (17, 20), (16, 16)], ids=["short", "long", "at the border"])
def test_a_text_that_crosses_longropes_border_goes_on_as_transformers_writes_it(
    family: str, lengths: tuple[int, ...]
) -> None:
    model: Any = decoder(family)
    given = [torch.arange(5, 5 + length).tolist() for length in lengths]
    model.generation_config.eos_token_id = None
    one_by_one = [
        model.generate(torch.tensor([prompt]), max_new_tokens=15, do_sample=False)[0, len(prompt) :].tolist()
        for prompt in given
    ]
    assert generate(model, given, ends=[], max_new_tokens=15) == one_by_one


def test_the_cache_grows_past_its_spare_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgedistill.evaluate.generate.GROWTH", 2)
    model = decoder("SmolLM2-135M-Instruct")
    expected = [alone(model, prompt, 20) for prompt in prompts(6)]
    assert generate(model, prompts(6), ends=ENDS, max_new_tokens=20) == expected


def test_an_answer_ends_with_the_models_last_position_whoever_is_in_the_batch() -> None:
    model = decoder("SmolLM2-135M-Instruct")
    given = [[7] * (POSITIONS - 3), [8, 9]]
    found = generate(model, given, ends=[], max_new_tokens=30)
    assert [len(answer) for answer in found] == [3, 30]
    with pytest.raises(InputError, match="prompt 1 has 64 tokens"):
        generate(model, [[7], [7] * POSITIONS], ends=[], max_new_tokens=3)


def test_progress_counts_answers_and_ends_at_all_of_them() -> None:
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int, note: str = "") -> None:
        seen.append((done, total))

    generate(decoder("Qwen3-0.6B"), prompts(9), ends=ENDS, max_new_tokens=4, batch_tokens=60, progress=progress)
    assert seen == [(done, 9) for done in range(1, 10)]


def test_no_prompts_give_no_answers() -> None:
    model: Any = decoder("Qwen3-0.6B")
    assert generate(model, [], ends=ENDS, max_new_tokens=4) == []
