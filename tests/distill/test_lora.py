"""LoRA: only the adapters learn, and nothing of them is left in what is exported."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from edgedistill.distill.lora import PROJECTIONS, merged, with_lora
from edgedistill.errors import InputError, MissingExtra
from tests.distill.decoders import NAMESAKES, VOCABULARY, decoder

RANK = 4


@pytest.fixture(params=NAMESAKES)
def student(request: pytest.FixtureRequest) -> PreTrainedModel:
    """A decoder of each kind."""
    return decoder(request.param)


@pytest.fixture
def llama() -> PreTrainedModel:
    """A decoder of one kind."""
    return decoder("Llama-3.1-8B-Instruct")


def texts() -> Tensor:
    return torch.randint(0, VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(2))


@torch.inference_mode()
def logits(model: torch.nn.Module) -> Tensor:
    found: Tensor = model(input_ids=texts()).logits
    return found


def learn(model: torch.nn.Module, steps: int = 3) -> None:
    """A few steps large enough to be seen."""
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=0.02)
    for _ in range(steps):
        model(input_ids=texts(), labels=texts()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_student_starts_as_it_was(student: PreTrainedModel) -> None:
    before = logits(student)
    assert torch.equal(logits(with_lora(student, RANK)), before)


def test_every_projection_of_every_layer_has_an_adapter_and_nothing_else(student: PreTrainedModel) -> None:
    expected = {name for name, _ in student.named_modules() if name.rpartition(".")[2] in PROJECTIONS}
    linear = {name for name, module in student.named_modules() if isinstance(module, torch.nn.Linear)}
    assert expected == linear - {"lm_head"}
    adapted = with_lora(student, RANK)
    found = {name.split(".lora_A")[0] for name, _ in adapted.named_parameters() if ".lora_A." in name}
    assert {name.removeprefix("base_model.model.") for name in found} == expected


def test_only_adapters_learn(student: PreTrainedModel) -> None:
    frozen = {name: weight.clone() for name, weight in student.state_dict().items()}
    adapted = with_lora(student, RANK)
    adapted(input_ids=texts(), labels=texts()).loss.backward()
    for name, weight in adapted.named_parameters():
        assert (weight.grad is not None) == (".lora_" in name), name
    learn(adapted)
    now = {name.replace(".base_layer", ""): weight for name, weight in student.state_dict().items()}
    assert all(torch.equal(now[name], weight) for name, weight in frozen.items())


def test_the_merged_student_answers_like_the_adapted_one(student: PreTrainedModel) -> None:
    before = logits(student)
    adapted = with_lora(student, RANK)
    learn(adapted)
    learned = logits(adapted.train(False))
    assert not torch.allclose(learned, before, atol=1e-2)
    torch.testing.assert_close(logits(merged(adapted)), learned, rtol=1e-5, atol=1e-5)


def test_nothing_of_an_adapter_is_left_in_the_checkpoint(student: PreTrainedModel, tmp_path: Path) -> None:
    names, kind = set(student.state_dict()), type(student)
    plain_config = student.config.to_dict()
    adapted = with_lora(student, RANK)
    learn(adapted)
    plain = merged(adapted)
    assert type(plain) is kind
    assert set(plain.state_dict()) == names
    assert plain.config.to_dict() == plain_config
    plain.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(file.keys()) <= names
    for path in tmp_path.glob("*.json"):
        assert not {"lora", "peft", "adapter"} & set(json.dumps(json.loads(path.read_text())).lower().split('"'))
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, local_files_only=True)
    assert torch.equal(logits(again), logits(plain))


def test_a_merged_student_can_be_trained_whole(llama: PreTrainedModel) -> None:
    plain = merged(with_lora(llama, RANK))
    assert all(weight.requires_grad for weight in plain.parameters())
    before = {name: weight.clone() for name, weight in plain.named_parameters()}
    learn(plain, steps=1)
    assert not any(torch.equal(weight, before[name]) for name, weight in plain.named_parameters())


def test_an_adapter_is_scaled_by_alpha_over_rank(llama: PreTrainedModel) -> None:
    weight = llama.get_parameter("model.layers.0.mlp.up_proj.weight").clone()
    adapted = with_lora(llama, RANK, alpha=6)
    parts = dict(adapted.named_parameters())
    prefix = "base_model.model.model.layers.0.mlp.up_proj"
    down, up = parts[f"{prefix}.lora_A.default.weight"], parts[f"{prefix}.lora_B.default.weight"]
    with torch.no_grad():
        up.copy_(torch.arange(up.numel()).reshape(up.shape) / up.numel())
        expected = weight + 6 / RANK * up @ down
        torch.testing.assert_close(merged(adapted).get_parameter("model.layers.0.mlp.up_proj.weight"), expected)


def test_the_same_seed_gives_the_same_adapters_and_leaves_the_generator_alone() -> None:
    found = []
    for seed in (1, 1, 2):
        model = decoder("Llama-3.1-8B-Instruct")
        torch.manual_seed(len(found))
        before = torch.get_rng_state()
        adapted = with_lora(model, RANK, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        found.append(torch.cat([w.flatten() for name, w in adapted.named_parameters() if ".lora_A." in name]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_adapters_of_a_half_precision_student_are_whole(llama: PreTrainedModel) -> None:
    adapted = with_lora(llama.to(torch.bfloat16), RANK)
    assert {w.dtype for name, w in adapted.named_parameters() if ".lora_" in name} == {torch.float32}
    assert {w.dtype for w in merged(adapted).parameters()} == {torch.bfloat16}


def test_numbers_that_are_not_finite_are_not_merged(llama: PreTrainedModel) -> None:
    adapted = with_lora(llama, RANK)
    with torch.no_grad():
        next(w for name, w in adapted.named_parameters() if ".lora_B." in name).fill_(math.inf)
    with pytest.raises(InputError, match="cannot be merged"):
        merged(adapted)


def test_a_model_without_projections_is_refused() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    other = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10, n_positions=8))
    with pytest.raises(InputError, match="no projection"):
        with_lora(other, RANK)


def test_a_missing_package_is_named(llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match="peft"):
        with_lora(llama, RANK)
