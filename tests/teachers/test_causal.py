"""Checkpoints that write text: which are refused before anything loads, and that a batch changes no answer."""

from __future__ import annotations

import json
import pickle
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from edgedistill.config import LabelTeacher
from edgedistill.errors import InputError
from edgedistill.teachers.answerer import Declined
from edgedistill.teachers.causal import INDEX, Causal, check
from edgedistill.types import Reply
from tests.teachers.asks import answers, ask, reply
from tests.teachers.checkpoints import CONTEXT, FAMILIES, TEMPLATE, decoder, edit

ASKS = (ask("w1 w2"), ask("w7"), ask("w3 w4 w5 w6 w2 w9"))


def causal(folder: Path, **settings: Any) -> Causal:
    return Causal(LabelTeacher.model_validate({"kind": "transformers", "model": str(folder), **settings}), folder)


@pytest.fixture(scope="session", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random decoder of each family."""
    return decoder(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama."""
    return decoder(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def checkpoint(llama: Path, tmp_path: Path) -> Path:
    """A copy to be spoiled."""
    return Path(shutil.copytree(llama, tmp_path / "checkpoint"))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A checkpoint in several files."""
    return decoder(tmp_path / "sharded", max_shard_size="20KB")


def test_a_checkpoint_is_loaded_and_says_what_it_is(family: Path) -> None:
    teacher = causal(family)
    assert teacher.name == family.name
    assert teacher.gives == ("text", "labels")
    assert not teacher.enforces
    assert teacher.identity["kind"] == "transformers"


def test_an_answer_is_what_the_model_finds_likeliest(family: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(family, dtype=torch.float32, local_files_only=True).train(False)
    found = reply(causal(family), ask("w1 w2", max_tokens=5))
    ids = [3, 7, 8, 5]  # <user> w1 w2 <assistant>
    assert found.prompt_tokens == len(ids)
    with torch.inference_mode():
        for _ in range(5):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    assert found.text.split() == [f"w{number - 6}" if number > 5 else "<assistant>" for number in ids[4:]]


def test_the_same_request_is_answered_alike_by_another_load(family: Path) -> None:
    assert answers(causal(family), *ASKS) == answers(causal(family), *ASKS)


def test_texts_of_different_lengths_together_are_answered_as_each_alone(family: Path) -> None:
    teacher = causal(family)
    together = answers(teacher, *ASKS)
    assert together == [reply(teacher, one) for one in ASKS]
    assert len({one.text for one in together if isinstance(one, Reply)}) == 3
    assert [one.prompt_tokens for one in together if isinstance(one, Reply)] == [4, 3, 8]


def test_requests_with_other_settings_in_one_call_keep_their_own(llama: Path) -> None:
    teacher = causal(llama)
    asks = [ask("w1 w2", max_tokens=tokens) for tokens in (3, 5, 3)]
    found = [one for one in answers(teacher, *asks) if isinstance(one, Reply)]
    assert [one.completion_tokens for one in found] == [3, 5, 3]
    assert found == [reply(teacher, one) for one in asks]


def test_a_warm_answer_is_drawn_and_drawn_alike_again(llama: Path) -> None:
    teacher = causal(llama)
    warm = ask("w1 w2", temperature=2.0)
    assert reply(teacher, warm) == reply(teacher, warm)
    assert reply(teacher, warm).text != reply(teacher, ask("w1 w2")).text


@pytest.mark.parametrize("top", [1, 5, 20])
def test_log_probabilities_come_for_each_token_from_the_likeliest_down(family: Path, top: int) -> None:
    teacher = causal(family, logprobs=top)
    assert "top-k log-probabilities" in teacher.gives
    for one in answers(teacher, *ASKS):
        assert isinstance(one, Reply)
        assert " ".join(one.tokens) == one.text
        assert len(one.tokens) == len(one.top_logprobs) == one.completion_tokens
        for token, tops in zip(one.tokens, one.top_logprobs, strict=True):
            values = list(tops.values())
            assert len(values) == top
            assert all(value <= 0 for value in values)
            assert all(first >= second for first, second in pairwise(values))
            assert next(iter(tops)) == token


def test_log_probabilities_change_no_answer(llama: Path) -> None:
    assert [one.text for one in answers(causal(llama), *ASKS) if isinstance(one, Reply)] == [
        one.text for one in answers(causal(llama, logprobs=3), *ASKS) if isinstance(one, Reply)
    ]


def test_of_two_tokens_that_are_written_alike_the_likelier_one_counts(checkpoint: Path) -> None:
    plain = reply(causal(checkpoint, logprobs=2), ask("w1 w2", max_tokens=1))
    (first, second), (likelier, _) = plain.top_logprobs[0].keys(), plain.top_logprobs[0].values()
    path = checkpoint / "tokenizer.json"
    values = json.loads(path.read_text())
    values["decoder"] = {"type": "Replace", "pattern": {"Regex": f"^{second}$"}, "content": first}
    path.write_text(json.dumps(values))
    assert reply(causal(checkpoint, logprobs=2), ask("w1 w2", max_tokens=1)).top_logprobs == ({first: likelier},)


def test_a_prompt_beyond_the_context_is_declined_and_harms_no_neighbour(family: Path) -> None:
    teacher = causal(family)
    long = ask(" ".join(["w1"] * CONTEXT))
    found = answers(teacher, ASKS[0], long, ASKS[1])
    assert type(found[1]) is Declined
    assert str(CONTEXT) in str(found[1])
    assert [found[0], found[2]] == answers(teacher, ASKS[0], ASKS[1])


def test_a_prompt_that_fills_the_context_to_its_last_token_is_answered(llama: Path) -> None:
    room = CONTEXT - 2 - 16  # <user>, <assistant> and the answer
    teacher = causal(llama)
    assert isinstance(answers(teacher, ask(" ".join(["w1"] * room)))[0], Reply)
    assert isinstance(answers(teacher, ask(" ".join(["w1"] * (room + 1))))[0], Declined)


@pytest.mark.parametrize("as_list", [False, True])
def test_an_answer_ends_at_the_end_token_or_at_its_limit(checkpoint: Path, as_list: bool) -> None:
    whole = reply(causal(checkpoint), ask("w1 w2"))
    assert (whole.finish, whole.completion_tokens) == ("length", 16)
    words = whole.text.split()
    end = int(words[4].removeprefix("w")) + 6
    edit(checkpoint / "generation_config.json", eos_token_id=[2, end] if as_list else end)
    ended = reply(causal(checkpoint, logprobs=2), ask("w1 w2"))
    assert (ended.finish, ended.text) == ("stop", " ".join(words[: words.index(words[4])]))
    assert len(ended.tokens) == len(ended.top_logprobs) == ended.completion_tokens == words.index(words[4])


def test_an_answer_that_ends_early_keeps_nothing_of_what_its_neighbours_still_write(checkpoint: Path) -> None:
    words = reply(causal(checkpoint), ASKS[0]).text.split()
    edit(checkpoint / "generation_config.json", eos_token_id=int(words[3].removeprefix("w")) + 6)
    teacher = causal(checkpoint, logprobs=2)
    short, *others = [one for one in answers(teacher, *ASKS) if isinstance(one, Reply)]
    assert (short.finish, short.completion_tokens) == ("stop", words.index(words[3]))
    assert max(one.completion_tokens for one in others) > short.completion_tokens


def test_the_template_of_the_checkpoint_makes_the_prompt_and_another_one_makes_another_teacher(
    checkpoint: Path,
) -> None:
    first = causal(checkpoint)
    with_system = reply(first, ask("w1 w2", system="w3"))
    assert with_system.prompt_tokens == 6
    template = checkpoint / "chat_template.jinja"
    template.write_text(template.read_text() + "w9 ")
    second = causal(checkpoint)
    assert reply(second, ask("w1 w2", system="w3")).prompt_tokens == 7
    assert first.identity != second.identity


def test_a_checkpoint_without_a_template_is_given_the_texts_alone(checkpoint: Path) -> None:
    (checkpoint / "chat_template.jinja").unlink()
    assert reply(causal(checkpoint), ask("w1 w2", system="w3")).prompt_tokens == 3


def test_a_template_that_takes_no_such_turns_declines_the_request(checkpoint: Path) -> None:
    (checkpoint / "chat_template.jinja").write_text(
        "{% if messages | length > 1 %}{{ raise_exception('one turn, please') }}{% endif %}{{ messages[0].content }}"
    )
    found = answers(causal(checkpoint), ask(messages=(*ask("w1").messages, *ask("w2").messages)), ask("w3"))
    assert type(found[0]) is Declined
    assert "one turn, please" in str(found[0])
    assert isinstance(found[1], Reply)


def test_a_template_without_a_system_turn_reads_its_text_in_the_users(checkpoint: Path) -> None:
    """As that of Gemma."""
    (checkpoint / "chat_template.jinja").write_text(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + TEMPLATE
    )
    teacher = causal(checkpoint)
    assert reply(teacher, ask("w1", system="w2 w3")) == reply(teacher, ask("w2 w3\n\nw1"))
    assert reply(teacher, ask("w1", system="w2 w3")) != reply(teacher, ask("w1"))


def test_a_template_cannot_reach_the_machine(checkpoint: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    (checkpoint / "chat_template.jinja").write_text(
        "{{ ''.__class__.__mro__[1].__subclasses__() }}"
        f"{{{{ cycler.__init__.__globals__.os.system('touch {sprung}') }}}}"
    )
    (found,) = answers(causal(checkpoint), ask("w1"))
    assert type(found) is Declined
    assert not sprung.exists()


def test_a_tokenizer_that_says_more_than_the_model_takes_is_no_obstacle(checkpoint: Path) -> None:
    plain = reply(causal(checkpoint), ask("w1 w2"))
    names = ["input_ids", "token_type_ids", "attention_mask"]
    edit(checkpoint / "tokenizer_config.json", model_input_names=names)
    assert reply(causal(checkpoint), ask("w1 w2")) == plain


def test_a_checkpoint_in_several_files_is_loaded_and_all_of_them_name_it(llama: Path, sharded: Path) -> None:
    weights = check(sharded)
    assert len(weights) > 2
    teacher = causal(sharded)
    assert reply(teacher, ASKS[0]) == reply(causal(llama), ASKS[0])
    with weights[-1].open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x3c")
    assert causal(sharded).identity != teacher.identity


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.sprung,)


@pytest.fixture
def never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a model is loaded after all."""
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))


@pytest.mark.usefixtures("never_loaded")
def test_pickled_weights_are_named_and_never_loaded(checkpoint: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(InputError, match=r"only pytorch_model\.bin, and pickled weights are never loaded"):
        causal(checkpoint)
    assert not sprung.exists()


@pytest.mark.usefixtures("never_loaded")
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_checkpoint_that_wants_to_run_its_own_code_is_refused(checkpoint: Path, file: str) -> None:
    edit(checkpoint / file, auto_map={"AutoModelForCausalLM": "modeling.Mine", "AutoTokenizer": ["tok.Mine", None]})
    with pytest.raises(InputError, match=r"its own code") as caught:
        causal(checkpoint)
    assert file in str(caught.value)


@pytest.mark.usefixtures("never_loaded")
@pytest.mark.parametrize("content", [None, "", "{", "[" * 100_000], ids=["missing", "empty", "cut", "deep"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_config_that_cannot_be_read_is_named(checkpoint: Path, file: str, content: str | None) -> None:
    (checkpoint / file).unlink()
    if content is not None:
        (checkpoint / file).write_text(content)
    with pytest.raises(InputError, match=f"no readable {file}"):
        causal(checkpoint)


@pytest.mark.usefixtures("never_loaded")
@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "{parent}/outside.safetensors", "inner/../../outside.safetensors"]
)
def test_an_index_that_names_a_file_outside_the_folder_is_refused(sharded: Path, name: str) -> None:
    shutil.copy(check(sharded)[0], sharded.parent / "outside.safetensors")
    (sharded / "inner").mkdir()
    index = json.loads((sharded / INDEX).read_text())
    first = next(iter(index["weight_map"]))
    index["weight_map"][first] = name.format(parent=sharded.parent)
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"lacks outside\.safetensors"):
        causal(sharded)


@pytest.mark.usefixtures("never_loaded")
def test_an_index_that_names_pickled_weights_is_refused(sharded: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    (sharded / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(sprung)))
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], "pytorch_model.bin")
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"pytorch_model\.bin"):
        causal(sharded)
    assert not sprung.exists()


@pytest.mark.usefixtures("never_loaded")
def test_a_missing_shard_is_named(sharded: Path) -> None:
    missing = check(sharded)[1]
    missing.unlink()
    with pytest.raises(InputError, match=f"lacks {missing.name}"):
        causal(sharded)


@pytest.mark.usefixtures("never_loaded")
@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 7}}', '{"weight_map": {"a": [1]}}', "[" * 10**5],
    ids=lambda content: content[:24] or "empty",
)
def test_an_index_that_cannot_be_read_is_named(sharded: Path, content: str) -> None:
    (sharded / INDEX).write_text(content)
    with pytest.raises(InputError, match=r"index\.json"):
        causal(sharded)


@pytest.mark.usefixtures("never_loaded")
def test_a_config_that_chooses_its_own_file_of_weights_is_refused(checkpoint: Path) -> None:
    edit(checkpoint / "config.json", transformers_weights="other.safetensors.index.json")
    with pytest.raises(InputError, match="transformers_weights"):
        causal(checkpoint)


@pytest.mark.usefixtures("never_loaded")
def test_a_folder_without_weights_is_refused(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(InputError, match="has no safetensors"):
        causal(checkpoint)


def test_the_file_that_is_loaded_is_the_file_that_names_the_teacher(checkpoint: Path, sharded: Path) -> None:
    for path in [*check(sharded), sharded / INDEX]:
        shutil.copy(path, checkpoint)
    assert checkpoint / "model.safetensors" in check(checkpoint)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: edit(folder / "config.json", model_type="of the future"),
        lambda folder: edit(folder / "config.json", model_type="bert", architectures=["BertModel"], num_labels="x"),
        lambda folder: (folder / "model.safetensors").write_bytes(b"junk"),
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9]),
        lambda folder: edit(folder / "config.json", hidden_size=48),
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        lambda folder: (folder / "tokenizer.json").unlink(),
    ],
    ids=["family", "no decoder", "junk", "cut", "other sizes", "tokenizer", "no tokenizer"],
)
def test_a_checkpoint_that_cannot_be_loaded_is_an_error_about_it(checkpoint: Path, spoil: Any) -> None:
    spoil(checkpoint)
    with pytest.raises(InputError, match="cannot load") as caught:
        causal(checkpoint)
    assert str(checkpoint) in str(caught.value)


def test_a_checkpoint_that_lacks_weights_is_never_filled_up_with_random_ones(checkpoint: Path) -> None:
    edit(checkpoint / "config.json", num_hidden_layers=3)
    with pytest.raises(InputError, match=r"lacks \d+ weights"):
        causal(checkpoint)
