"""Nobody spells models and quantizations alike, and the numbers of one model are the same however it is written."""

from __future__ import annotations

import pytest

from edgedistill.predictor import names


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Q4_K_M", "q4_k"),
        ("q4_k_m", "q4_k"),
        ("q4-k-m", "q4_k"),
        ("Q4_K - Medium", "q4_k"),
        ("Ollama default (Q4_K_M)", "q4_k"),
        ("gguf-q4_k_m", "q4_k"),
        ("Q4_K_S", "q4_k"),
        ("Q4_0_4_4", "q4_0"),
        ("W4 (Q4_0)", "q4_0"),
        ("Q8_0", "q8_0"),
        ("Q8", "q8_0"),
        ("Q3_K_S-2.70bpw", "q3_k"),
        ("iq1_s", "iq1"),
        ("IQ4_NL", "iq4"),
        ("BF16", "f16"),
        ("fp32", "f32"),
    ],
)
def test_a_quantization_is_known_however_it_is_written(text: str, kind: str) -> None:
    found = names.quantization(text)
    assert found is not None
    assert found.kind == kind


@pytest.mark.parametrize("text", ["", "int4", "8da4w g32", "4-bit", "Ollama default", "w4a16", "litertlm int4", "q9_z"])
def test_what_is_no_form_of_llama_cpp_is_none(text: str) -> None:
    assert names.quantization(text) is None


@pytest.mark.parametrize(("text", "narrow"), [("Q3_K_L", True), ("iq3_s", True), ("IQ4_XS", False), ("Q4_0", False)])
def test_what_has_fewer_than_four_bits_says_so(text: str, narrow: bool) -> None:
    found = names.quantization(text)
    assert found is not None
    assert found.narrow is narrow


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Llama-3.2-3B", "meta/llama-3.2-3b-instruct"),
        ("SmolLM2-1.7B-Instruct", "smollm2-1.7b"),
        ("qwen:1.8b", "qwen-1.8b"),
        ("Mistral-7B-Instruct-v0.3", "mistral-7b"),
        ("Gemma-4-E2B (QAT)", "gemma-4-e2b"),
        ("Qwen3-30B-A3B-2507", "qwen3-30b-a3b"),
        ("stable-code-instruct-3b", "stable-code-3b"),
    ],
)
def test_one_model_has_one_name(one: str, other: str) -> None:
    assert names.plain(one) == names.plain(other)


def test_different_models_keep_different_names() -> None:
    apart = {"qwen2.5-1.5b", "deepseek-r1-distill-qwen-1.5b", "qwen3-1.7b", "qwen3.5-2b", "qwen2.5-3b", "llama-3.2-1b"}
    assert len({names.plain(name) for name in apart}) == len(apart)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("DeepSeek-R1-Distill-Qwen-1.5B", "qwen2.5-1.5b"),
        ("phi-3.5-mini", "phi3:3.8b"),
        ("Gemma3-1B", "gemma-3-1b-it"),
        ("Qwen2.5-Coder-7B", "deepseek-r1-distill-qwen-7b"),
        ("Newcomer-3-1B", "newcomer3-1b"),
    ],
)
def test_one_network_under_two_names_is_one(one: str, other: str) -> None:
    assert names.plain(one) != names.plain(other)
    assert names.network(one) == names.network(other)


def test_networks_of_other_sizes_are_apart() -> None:
    apart = {"qwen2.5-1.5b", "qwen3-1.7b", "qwen2.5-3b", "qwen-1.8b", "newcomer-1.5b", "newcomer-15b", "yi-coder-1.5b"}
    assert len({names.network(name) for name in apart}) == len(apart)


def test_the_bytes_of_a_known_model_are_those_of_its_file() -> None:
    # Qwen2.5-1.5B: 1,543.7 M weights, 233.4 M of them the tied table; llama.cpp writes it into 986 MB as Q4_K_M
    # and into 1,646 MB as Q8_0.
    model = names.decoder("Qwen2.5-1.5B-Instruct")
    assert model is not None
    for quant, size in (("Q4_K_M", 986e6), ("Q8_0", 1646e6)):
        form = names.quantization(quant)
        assert form is not None
        assert model.file_bytes(form) == pytest.approx(size, rel=0.02)
        assert model.bytes_read(form) == model.file_bytes(form)  # the tied table is the head


def test_what_a_token_reads_leaves_out_what_it_looks_up() -> None:
    form = names.quantization("Q8_0")
    untied, layered, experts = map(names.decoder, ("Phi-3.5-mini", "gemma-4-E2B", "Qwen3-30B-A3B-2507"))
    assert form is not None
    assert untied is not None
    assert layered is not None
    assert experts is not None
    assert untied.file_bytes(form) - untied.bytes_read(form) == pytest.approx(98.5e6 * 8.5 / 8)
    assert layered.bytes_read(form) == pytest.approx(2.30e9 * 8.5 / 8, rel=0.01)  # of 4.65 billion
    assert experts.bytes_read(form) < 0.11 * experts.file_bytes(form)


def test_a_model_that_nobody_knows_is_as_big_as_its_name_says() -> None:
    for name, size in (("newcomer-3b", 3e9), ("tiny 250M chat", 250e6)):
        found = names.decoder(name)
        assert found is not None
        assert not found.known
        assert found.body + found.table * (1 if found.tied else 2) == pytest.approx(size)
    experts = names.decoder("newcomer-20B-A4B")
    assert experts is not None
    assert experts.active == 4e9
    given = names.decoder("newcomer", 1234.0)
    assert given is not None
    assert given.body + given.table == pytest.approx(1.234e9)
    assert names.decoder("newcomer") is None


def test_a_k_quant_falls_back_where_the_width_has_no_whole_blocks() -> None:
    gemma, llama = names.decoder("gemma-3-1b"), names.decoder("llama-3.2-1b")
    k_quant, plain = names.quantization("Q4_K_M"), names.quantization("Q4_0")
    assert gemma is not None
    assert llama is not None
    assert k_quant is not None
    assert plain is not None
    assert gemma.falls_back(k_quant)
    assert not gemma.falls_back(plain)
    assert not llama.falls_back(k_quant)


def test_every_checkpoint_of_the_table_is_found_once_and_is_sensible() -> None:
    table = names._table()
    for _, sizes, _ in table:
        assert sizes.table < 0.7 * (sizes.body + sizes.table)
        assert 0 < sizes.active <= sizes.body
    for name in ("llama-3.2-1b", "qwen3-0.6b", "smollm2-360m", "gemma-3-270m", "phi3-3.8b", "mistral-7b", "yi-1.5-6b"):
        assert sum(pattern.fullmatch(name) is not None for pattern, _, _ in table) == 1
