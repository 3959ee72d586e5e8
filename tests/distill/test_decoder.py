"""Decoder students: which piece of the teacher each is, and that it answers as that piece does."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from edgedistill import distill
from edgedistill.config import Request
from edgedistill.distill.batches import Batch, collate
from edgedistill.distill.decoder import Importance, importance_of, initialise, load_student
from edgedistill.distill.decoder_shape import FAMILIES, shape_of, snap, spread
from edgedistill.errors import InputError
from tests.distill.decoders import NAMESAKES, PAD, VOCABULARY, decoder

KEPT = (0, 1, 2, 3, 4, 7, 11, 20, 21, 39)
README = Path(distill.__file__).with_name("README.md").read_text(encoding="utf-8")
BLOCKS = [tomllib.loads(block) for block in re.findall(r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)]


@pytest.fixture(params=NAMESAKES)
def teacher(request: pytest.FixtureRequest) -> PreTrainedModel:
    """A decoder of each kind."""
    return decoder(request.param)


@pytest.fixture
def llama() -> PreTrainedModel:
    """A decoder of one kind."""
    return decoder("Llama-3.1-8B-Instruct")


def texts(pieces: int = VOCABULARY, length: int = 12) -> Tensor:
    """Three texts, longer than every window and shorter than every first length of positions."""
    return torch.randint(0, pieces, (3, length), generator=torch.Generator().manual_seed(2))


def batches() -> list[Batch]:
    chance = torch.Generator().manual_seed(3)
    ids = [torch.randint(5, VOCABULARY, (length,), generator=chance).tolist() for length in (9, 4, 14, 7)]
    return [collate(ids, [0, 1], PAD), collate(ids, [2, 3], PAD)]


@torch.inference_mode()
def logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    found: Tensor = model(input_ids=ids).logits
    return found


def narrow(teacher: PreTrainedModel) -> PreTrainedModel:
    """A student that is smaller in every way."""
    full = shape_of(teacher)
    groups = max(full.kv_heads // 2, 1)
    shape = dataclasses.replace(
        full,
        layers=(0, 2),
        hidden=full.hidden * groups // full.kv_heads,
        ffn=24,
        heads=full.heads * groups // full.kv_heads,
        kv_heads=groups,
        vocabulary=len(KEPT),
        positions=32,
    )
    return initialise(teacher, shape, KEPT, importance_of(teacher, batches()))


def test_every_family_has_a_namesake() -> None:
    assert {settings["model_type"] for settings in NAMESAKES.values()} == set(FAMILIES)


def test_a_student_of_everything_is_its_teacher_bit_for_bit(teacher: PreTrainedModel) -> None:
    student = initialise(teacher, shape_of(teacher), range(VOCABULARY), importance_of(teacher, batches()))
    assert torch.equal(logits(student, texts()), logits(teacher, texts()))
    theirs = teacher.state_dict()
    for name, weight in student.state_dict().items():
        assert torch.equal(weight, theirs[name]), name


def test_a_student_of_two_layers_is_the_teacher_without_the_third(teacher: PreTrainedModel) -> None:
    student = initialise(teacher, dataclasses.replace(shape_of(teacher), layers=(0, 2)))
    whole = logits(teacher, texts())
    layers: Any = teacher.get_submodule("model.layers")
    layers[1].forward = lambda hidden_states, *_, **__: hidden_states
    assert torch.equal(logits(student, texts()), logits(teacher, texts()))
    assert not torch.allclose(logits(student, texts()), whole)


def test_a_student_of_fewer_pieces_gives_the_teachers_logits_of_them(teacher: PreTrainedModel) -> None:
    shape = dataclasses.replace(shape_of(teacher), vocabulary=len(KEPT))
    new = texts(len(KEPT))
    ours = logits(initialise(teacher, shape, KEPT), new)
    torch.testing.assert_close(ours, logits(teacher, torch.tensor(KEPT)[new])[..., list(KEPT)], rtol=1e-5, atol=1e-5)


def test_inner_units_that_nobody_hears_can_go(teacher: PreTrainedModel) -> None:
    layers: Any = teacher.get_submodule("model.layers")
    for number, layer in enumerate(layers):
        silent = torch.randperm(48, generator=torch.Generator().manual_seed(number))[:16]
        layer.mlp.down_proj.weight.data[:, silent] = 0
    shape = dataclasses.replace(shape_of(teacher), ffn=32)
    student = initialise(teacher, shape, importance=importance_of(teacher, batches()))
    torch.testing.assert_close(logits(student, texts()), logits(teacher, texts()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("namesake", NAMESAKES)
def test_head_groups_that_say_nothing_can_go(namesake: str) -> None:
    teacher = decoder(namesake, num_attention_heads=6, num_key_value_heads=3, hidden_size=48)
    full = shape_of(teacher)
    width = 3 * full.head_size
    for number, layer in enumerate(teacher.get_submodule("model.layers").children()):
        for name, parameter in layer.named_parameters():
            start = number % 3 * full.head_size
            if "v_proj" in name.replace("qkv_proj", "v_proj"):
                start += parameter.shape[0] - width  # values are last of the fused rows
                parameter.data[start : start + full.head_size] = 0
    shape = dataclasses.replace(full, heads=4, kv_heads=2)
    if teacher.config.model_type == "phi3" and "short_factor" in teacher.config.rope_parameters:
        with pytest.raises(InputError, match="short_factor"):
            initialise(teacher, shape, importance=importance_of(teacher, batches()))
        return
    student = initialise(teacher, shape, importance=importance_of(teacher, batches()))
    torch.testing.assert_close(logits(student, texts()), logits(teacher, texts()), rtol=1e-4, atol=1e-4)


def test_residual_dimensions_that_hold_nothing_can_go(teacher: PreTrainedModel) -> None:
    full = shape_of(teacher)
    empty = torch.randperm(full.hidden, generator=torch.Generator().manual_seed(4))[: full.hidden // 4]
    for name, parameter in teacher.named_parameters():
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            parameter.data[:, empty] = 0
        elif ".o_proj." in name or ".down_proj." in name:
            parameter.data[empty] = 0
    hidden = full.hidden - len(empty)
    shape = dataclasses.replace(full, hidden=hidden)
    importance = importance_of(teacher, batches())
    if teacher.config.model_type == "phi3" and "short_factor" in teacher.config.rope_parameters:
        with pytest.raises(InputError, match="short_factor"):
            initialise(teacher, shape, importance=importance)
        return
    student = initialise(teacher, shape, importance=importance)
    # Each norm divides by the RMS over fewer numbers with the same sum of squares.
    shift = 1.0 if teacher.config.model_type.startswith("gemma") else 0.0
    for name, parameter in student.named_parameters():
        if name.endswith(("layernorm.weight", "model.norm.weight")):
            parameter.data = (parameter.data + shift) * (full.hidden / hidden) ** 0.5 - shift
    torch.testing.assert_close(logits(student, texts()), logits(teacher, texts()), rtol=1e-3, atol=1e-3)


def test_a_students_weights_are_as_many_as_its_shape_says(teacher: PreTrainedModel) -> None:
    for model in (teacher, narrow(teacher)):
        assert sum(parameter.numel() for parameter in model.parameters()) == shape_of(model).parameters


def test_one_token_costs_the_products_that_are_counted(teacher: PreTrainedModel) -> None:
    teacher.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        teacher(input_ids=torch.tensor([[5]]))
    rotary = counter.get_flop_counts().get(f"{type(teacher).__name__}.model.rotary_emb", {})
    assert counter.get_total_flops() - sum(rotary.values()) == 2 * shape_of(teacher).macs(1)


def test_each_token_of_a_prompt_attends_to_those_before_it(llama: PreTrainedModel) -> None:
    shape = shape_of(llama)
    first, second, third = (shape.macs(tokens) for tokens in (1, 2, 3))
    assert (third - second) - (second - first) == 3 * 2 * 4 * 8  # layers, key and value, heads, head size


def test_a_student_is_saved_and_loaded_as_it_is(teacher: PreTrainedModel, tmp_path: Path) -> None:
    student = narrow(teacher)
    student.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, local_files_only=True)
    new = texts(len(KEPT), 24)
    assert torch.equal(logits(again, new), logits(student, new))
    assert again.config.max_position_embeddings == 32


def test_a_student_writes_on_from_its_cache(teacher: PreTrainedModel) -> None:
    student = narrow(teacher)
    start = texts(len(KEPT), 6)[:1]
    writer: Any = student
    found = writer.generate(
        start, attention_mask=torch.ones_like(start), max_new_tokens=6, do_sample=False, eos_token_id=None
    )
    again = logits(student, found[:, :-1]).argmax(dim=-1)
    assert found[0, 6:].tolist() == again[0, 5:].tolist()


@pytest.mark.parametrize("positions", [14, 32], ids=["fewer than before longrope", "more"])
def test_fewer_positions_change_no_answer_that_fits(teacher: PreTrainedModel, positions: int) -> None:
    """Longrope scales by the ratio of both lengths where the config has no factor."""
    student = initialise(teacher, dataclasses.replace(shape_of(teacher), positions=positions))
    ids = texts(length=positions)
    assert torch.equal(logits(student, ids), logits(teacher, ids))


def test_special_tokens_are_found_under_their_new_numbers(llama: PreTrainedModel) -> None:
    kept = (2, 4, 9, 1, 3)
    generation: Any = llama.generation_config
    generation.suppress_tokens = [9, 30]
    student = initialise(llama, dataclasses.replace(shape_of(llama), vocabulary=5), kept)
    for settings in (student.config, student.generation_config):
        found: Any = settings
        assert (found.bos_token_id, found.eos_token_id, found.pad_token_id) == (3, [0, 4], 1)
    assert generation.suppress_tokens == [9, 30]
    changed: Any = student.generation_config
    assert changed.suppress_tokens == [2]
    assert llama.config.eos_token_id == [2, 3]


def test_a_vocabulary_without_the_end_token_is_refused(llama: PreTrainedModel) -> None:
    with pytest.raises(InputError, match="eos_token_id 3"):
        initialise(llama, dataclasses.replace(shape_of(llama), vocabulary=4), (1, 2, 4, 7))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers": (2, 0)}, "in order"),
        ({"layers": (0, 3)}, "of 3"),
        ({"layers": ()}, "layers"),
        ({"hidden": 64}, "hidden 64 of 32"),
        ({"ffn": 0}, "ffn 0 of 48"),
        ({"heads": 2}, "2 heads on 2 key-value heads"),
        ({"head_size": 4}, "head_size 4"),
        ({"vocabulary": 30}, "vocabulary of 30"),
        ({"ffn": 32}, "which widths matter"),
        ({"tied": True}, "tied True"),
        ({"positions": 100}, "positions 100 of 64"),
    ],
    ids=str,
)
def test_a_shape_that_is_no_part_of_the_teacher_is_refused(
    llama: PreTrainedModel, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        initialise(llama, dataclasses.replace(shape_of(llama), **changes))


@pytest.mark.parametrize("kept", [(1, 2, 3, 4, 4), (1, 2, 3, 4, 40)], ids=["twice", "unknown"])
def test_pieces_that_cannot_be_kept_are_refused(llama: PreTrainedModel, kept: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="kept pieces"):
        initialise(llama, dataclasses.replace(shape_of(llama), vocabulary=5), kept)


def test_widths_that_transformers_would_not_load_again_are_refused(llama: PreTrainedModel) -> None:
    shape = dataclasses.replace(shape_of(llama), hidden=30)
    with pytest.raises(InputError, match="multiple of the number of attention heads"):
        initialise(llama, shape, importance=importance_of(llama, batches()))


def test_making_a_student_draws_no_random_numbers(teacher: PreTrainedModel) -> None:
    before = torch.get_rng_state()
    first = narrow(teacher)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(9)
    second = narrow(teacher).state_dict()
    assert all(torch.equal(weight, second[name]) for name, weight in first.state_dict().items())


def test_changing_the_student_leaves_its_teacher_as_it_was(teacher: PreTrainedModel) -> None:
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    settings = teacher.config.to_dict()
    student = initialise(teacher, shape_of(teacher))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    narrow(teacher)
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.state_dict().items())
    assert teacher.config.to_dict() == settings


def test_a_student_has_its_teachers_dtype(llama: PreTrainedModel) -> None:
    student = narrow(llama.to(torch.bfloat16))
    assert {parameter.dtype for parameter in student.parameters()} == {torch.bfloat16}


def test_padding_does_not_change_what_counts(teacher: PreTrainedModel) -> None:
    together = importance_of(teacher, batches())
    rows = [
        (batch["input_ids"][row], int(batch["attention_mask"][row].sum())) for batch in batches() for row in range(2)
    ]
    alone = importance_of(teacher, [collate([ids[:length].tolist()], [0], PAD) for ids, length in rows])
    for name in Importance.__slots__:
        torch.testing.assert_close(getattr(together, name), getattr(alone, name), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_importance_is_what_the_papers_say(llama: PreTrainedModel) -> None:
    ids = texts()[0].tolist()
    found = importance_of(llama, [collate([ids], [0], PAD)])
    model: Any = llama.get_submodule("model")
    normed: dict[str, Tensor] = {}
    entered: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _m, _i, out, name=name: normed.__setitem__(name, out))
        module.register_forward_pre_hook(lambda _m, inputs, name=name: entered.__setitem__(name, (*inputs, None)[0]))
    llama(input_ids=torch.tensor([ids]))
    hidden = normed["norm"][0].abs().sum(dim=0)
    for number in range(3):
        layer = model.layers[number]
        before, between = (normed[f"layers.{number}.{part}_layernorm"][0] for part in ("input", "post_attention"))
        hidden = hidden + before.abs().sum(dim=0) + between.abs().sum(dim=0)
        mlp = layer.mlp
        active = torch.nn.functional.silu(between @ mlp.gate_proj.weight.T) * (between @ mlp.up_proj.weight.T)
        units = active.abs().sum(dim=0) * mlp.down_proj.weight.pow(2).sum(dim=0).sqrt()
        torch.testing.assert_close(found.units[number], units, rtol=1e-4, atol=1e-4)
        heads = entered[f"layers.{number}.self_attn.o_proj"][0].reshape(len(ids), 4, 8)
        each = heads.pow(2).sum(dim=-1).sqrt().sum(dim=0)
        torch.testing.assert_close(found.groups[number], torch.stack((each[:2].sum(), each[2:].sum())))
    torch.testing.assert_close(found.hidden, hidden)


def test_no_hook_stays_on_the_teacher(llama: PreTrainedModel) -> None:
    importance_of(llama, batches())
    assert not [name for name, module in llama.named_modules() if module._forward_hooks or module._forward_pre_hooks]


def test_a_named_checkpoint_is_loaded_as_it_was_saved(teacher: PreTrainedModel, tmp_path: Path) -> None:
    assert torch.equal(logits(load_student(saved(teacher, tmp_path)), texts()), logits(teacher, texts()))


def test_a_named_checkpoint_can_be_loaded_in_half_precision(llama: PreTrainedModel, tmp_path: Path) -> None:
    assert load_student(saved(llama, tmp_path), torch.bfloat16).dtype == torch.bfloat16


def test_a_checkpoint_of_another_family_is_refused(tmp_path: Path) -> None:
    other = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10, n_positions=8))
    with pytest.raises(InputError, match=r"'gpt2'.*phi3 \(Phi-3, Phi-3.5 and Phi-4-mini\)"):
        load_student(saved(other, tmp_path))
    with pytest.raises(InputError, match="'gpt2'"):
        shape_of(other)


def test_a_checkpoint_that_lacks_weights_is_refused(llama: PreTrainedModel, tmp_path: Path) -> None:
    weights = {name: weight for name, weight in llama.state_dict().items() if ".2.mlp.up_proj" not in name}
    llama.save_pretrained(tmp_path, state_dict=weights)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(InputError, match="up_proj"):
        load_student(tmp_path)


def test_a_checkpoint_that_wants_to_run_its_own_code_is_refused(llama: PreTrainedModel, tmp_path: Path) -> None:
    path = saved(llama, tmp_path) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoConfig": "configuration.Own"}}))
    with pytest.raises(InputError, match="its own code"):
        load_student(tmp_path)


def saved(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def test_layers_are_spread_from_the_first_to_the_last() -> None:
    assert spread(15, 30) == (0, 2, 4, 6, 8, 10, 12, 15, 17, 19, 21, 23, 25, 27, 29)
    assert spread(3, 3) == (0, 1, 2)
    assert spread(1, 4) == (3,)


@pytest.mark.parametrize(
    ("width", "limit", "target", "snapped"),
    [
        (1000, 1536, "k-quants", 1024),
        (1024, 1536, "k-quants", 1024),
        (100, 1536, "k-quants", 256),
        (1530, 1537, "k-quants", 1536),
        (1500, 1520, "k-quants", 1280),
        (576, 576, "k-quants", 576),
        (2000, 1536, "k-quants", 1536),
        (100, 200, "k-quants", 200),
        (1000, 1536, "4-bit blocks", 992),
        (48, 576, "4-bit blocks", 64),
    ],
)
def test_widths_go_to_the_nearest_block(width: int, limit: int, target: Any, snapped: int) -> None:
    found, why = snap(width, limit, target)
    assert found == snapped
    assert str(found) in why
    assert target in why


def test_every_named_student_of_the_readme_has_an_architecture_that_is_tested() -> None:
    named = [block["student"]["model"].rpartition("/")[2] for block in BLOCKS if "model" in block["student"]]
    assert {"Phi-4-mini-instruct", "Phi-3-mini-4k-instruct", "Phi-3-mini-128k-instruct"} <= set(named)
    assert {"Phi-3.5-mini-instruct", "Llama-3.1-8B-Instruct"} <= set(named)
    assert set(named) <= set(NAMESAKES)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block["student"].get("model", "a piece"))
def test_every_block_of_the_readme_is_a_request(block: dict[str, Any]) -> None:
    assert ("model" in block["student"]) != ("layers" in block["student"])
    assert "teacher" in block or "label" in block
    request = Request.model_validate(block)
    assert request.distill.route == block["distill"].get("route", "auto")


@pytest.mark.parametrize(
    ("namesake", "sizes", "millions"),
    [
        ("SmolLM2-135M-Instruct", (30, 576, 1536, 9, 3, 64, 49152), 134.5),
        ("Qwen2.5-0.5B-Instruct", (24, 896, 4864, 14, 2, 64, 151936), 494.0),
        ("Qwen3-0.6B", (28, 1024, 3072, 16, 8, 128, 151936), 596.0),
        ("gemma-3-1b-it", (26, 1152, 6912, 4, 1, 256, 262144), 999.9),
        ("gemma-2-2b-it", (26, 2304, 9216, 8, 4, 256, 256000), 2614.3),
        ("Phi-3-mini-4k-instruct", (32, 3072, 8192, 32, 32, 96, 32064), 3821.1),
        ("Phi-4-mini-instruct", (32, 3072, 8192, 24, 8, 128, 200064), 3836.0),
        ("Llama-3.1-8B-Instruct", (32, 4096, 14336, 32, 8, 128, 128256), 8030.3),
    ],
)
def test_the_sizes_that_the_makers_name_come_out(namesake: str, sizes: tuple[int, ...], millions: float) -> None:
    """And the README names the same."""
    layers, hidden, ffn, heads, kv_heads, head_size, vocabulary = sizes
    shape = dataclasses.replace(
        shape_of(decoder(namesake)),
        layers=tuple(range(layers)),
        hidden=hidden,
        ffn=ffn,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        vocabulary=vocabulary,
    )
    assert shape.parameters / 1e6 == pytest.approx(millions, abs=0.06)
    (row,) = [
        line for line in README.splitlines() if line.startswith("| ") and namesake[:10] in line and " B |" in line
    ]
    assert f"| {shape.parameters / 1e9:.2f} B |" in row
