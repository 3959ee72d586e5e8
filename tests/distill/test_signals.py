"""The cache of a decoder's answers: small, resumable, and never read for anything but what it was made for."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from edgedistill.distill import signals, sparse
from edgedistill.distill.batches import ByTokens
from edgedistill.distill.examples import Example, collate, encode, targets
from edgedistill.distill.losses import sampled_kl, sparse_kl
from edgedistill.distill.signals import ABSENT, MANIFEST, Source, capture, read, source_of
from edgedistill.distill.sparse import Sparsity
from edgedistill.distill.vocab import trim
from edgedistill.errors import InputError, IntegrityError, StageError
from edgedistill.store import digest, hashes
from tests.distill.chats import CHATML, CORPUS, GEMMA, chat_tokenizer, turns, wrapped
from tests.distill.decoders import NAMESAKES, VOCABULARY, decoder

SOURCE = Source(teacher="t", tokenizer="k", template="c", pieces=VOCABULARY)
LLAMA = "SmolLM2-135M-Instruct"


def rows(count: int, pieces: int = VOCABULARY) -> list[Example]:
    """Rows of random tokens, of many lengths, no two alike."""
    chance = random.Random(3)
    made = []
    for number in range(count):
        start = chance.randint(1, 9)
        ids = tuple(chance.randrange(pieces) for _ in range(start + chance.randint(1, 12)))
        made.append(Example(key=digest(number), ids=ids, answer_start=start))
    return made


@torch.inference_mode()
def dense(model: Any, examples: list[Example], pieces: int = VOCABULARY) -> Tensor:
    """What the whole model says at each answer token, each row on its own, [items, pieces]."""
    found = []
    for example in examples:
        logits = model(input_ids=torch.tensor([example.ids])).logits[0, example.answer_start - 1 : -1]
        found.append(logits[:, :pieces].float().log_softmax(-1))
    return torch.cat(found)


def scattered(found: signals.Sparse, pieces: int = VOCABULARY) -> Tensor:
    """The probabilities that were kept, [items, pieces]."""
    return torch.zeros(len(found.ids), pieces).scatter_add(1, found.ids, found.logprobs.exp() * found.present)


@pytest.fixture(scope="module")
def model() -> Any:
    return decoder(LLAMA)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Captures into new folders, with few rows a shard."""
    monkeypatch.setattr(signals, "SHARD_ROWS", 8)

    def make(model: Any, examples: list[Example], source: Source = SOURCE, **settings: Any) -> Path:
        name = settings.pop("name", "cache")
        folder, work = tmp_path / name, tmp_path / "work"
        folder.mkdir()
        work.mkdir(exist_ok=True)
        capture(model, examples, source, Sparsity(**settings), folder=folder, work=work, batch_tokens=64)
        return folder

    return make


@pytest.mark.parametrize("namesake", NAMESAKES)
def test_every_family_is_heard_as_its_whole_model_speaks(namesake: str, kept: Callable[..., Path]) -> None:
    teacher, examples = decoder(namesake), rows(11)
    opened = read(kept(teacher, examples, k=VOCABULARY), SOURCE, examples, vocabulary=VOCABULARY)
    found = opened.lookup([example.key for example in examples])
    assert found.usable.all()
    torch.testing.assert_close(scattered(found), dense(teacher, examples).exp(), atol=2e-4, rtol=0)


def test_a_family_that_scales_its_logits_in_another_way_is_refused(kept: Callable[..., Path]) -> None:
    teacher = decoder(LLAMA)
    teacher.get_output_embeddings().register_forward_hook(
        lambda _module, inputs, logits: logits / 2 if inputs[0].dim() == 3 else logits
    )
    with pytest.raises(InputError, match="not known"):
        kept(teacher, rows(3))


def test_the_likeliest_tokens_are_kept_and_the_rest_is_what_is_missing(model: Any, kept: Callable[..., Path]) -> None:
    examples = rows(20)
    found = read(kept(model, examples, k=5), SOURCE, examples, vocabulary=VOCABULARY).lookup(
        [example.key for example in examples]
    )
    best = dense(model, examples).topk(5)
    assert torch.equal(found.ids, best.indices)
    torch.testing.assert_close(found.logprobs, best.values, rtol=2**-11, atol=1e-5)
    assert (found.logprobs.exp().sum(1) <= 1 + 1e-6).all()


def test_draws_have_the_teachers_probabilities_in_expectation(model: Any, kept: Callable[..., Path]) -> None:
    examples = rows(4)
    keys = [example.key for example in examples]
    mean = torch.zeros(1)
    repeats, draws = 40, 50
    for seed in range(repeats):
        folder = kept(model, examples, mode="sampled", k=draws, seed=seed, name=str(seed))
        found = read(folder, SOURCE, examples, vocabulary=VOCABULARY).lookup(keys)
        torch.testing.assert_close(found.logprobs.exp().sum(1), torch.ones(len(found.ids)))
        mean = mean + scattered(found) / repeats
    expected = dense(model, examples).exp()
    spread = (expected * (1 - expected) / (draws * repeats)).sqrt()
    assert ((mean - expected).abs() < 5 * spread + 1e-3).all()


def test_draws_are_the_same_for_the_same_seed_only(model: Any, kept: Callable[..., Path], tmp_path: Path) -> None:
    examples = rows(20)
    first = hashes(kept(model, examples, mode="sampled", k=9, name="first"))
    for shard in (tmp_path / "work").iterdir():
        shard.unlink()
    torch.manual_seed(99)
    assert hashes(kept(model, examples, mode="sampled", k=9, name="again")) == first
    other = hashes(kept(model, examples, mode="sampled", k=9, seed=1, name="other"))
    assert all(other[name] != value for name, value in first.items())


def test_pairs_survive_shuffling_and_two_epochs(model: Any, kept: Callable[..., Path]) -> None:
    examples = rows(30)
    folder = kept(model, examples, k=VOCABULARY)
    shuffled = random.Random(0).sample(examples, len(examples))
    opened = read(folder, SOURCE, shuffled, vocabulary=VOCABULARY)
    seen = []
    for step in ByTokens([len(example.ids) for example in shuffled], 64, epochs=2, seed=5):
        batch = [shuffled[row] for row in step]
        found = opened.lookup([example.key for example in batch])
        assert len(found.ids) == len(targets(collate(batch, 0)))
        torch.testing.assert_close(scattered(found), dense(model, batch).exp(), atol=2e-4, rtol=0)
        seen += step
    assert sorted(seen) == sorted([*range(30)] * 2)


PROCESS = """
import json, sys, torch
from edgedistill.distill.examples import Example
from edgedistill.distill.signals import Source, read
from pathlib import Path
told = json.loads(sys.stdin.read())
examples = [Example(key=e["key"], ids=tuple(e["ids"]), answer_start=e["answer_start"]) for e in told["examples"]]
opened = read(Path(told["folder"]), Source(**told["source"]), examples, vocabulary=told["vocabulary"])
found = opened.lookup([example.key for example in examples[told["rank"]::2]])
print(json.dumps([found.ids.tolist(), found.logprobs.tolist()]))
"""


def test_pairs_are_the_same_in_two_processes_at_once(model: Any, kept: Callable[..., Path]) -> None:
    import json

    examples = rows(20)
    folder = kept(model, examples, k=7)
    told = {
        "folder": str(folder),
        "source": dataclasses.asdict(SOURCE),
        "vocabulary": VOCABULARY,
        "examples": [dataclasses.asdict(example) for example in examples],
    }
    started = [
        subprocess.Popen([sys.executable, "-c", PROCESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for rank, process in enumerate(started):
        assert process.stdin is not None
        process.stdin.write(json.dumps({**told, "rank": rank}))
        process.stdin.close()
    for rank, process in enumerate(started):
        assert process.stdout is not None
        ids, logprobs = json.loads(process.stdout.read())
        process.stdout.close()
        assert process.wait() == 0
        best = dense(model, examples[rank::2]).topk(7)
        assert ids == best.indices.tolist()
        torch.testing.assert_close(torch.tensor(logprobs), best.values, rtol=2**-11, atol=1e-5)


@pytest.mark.parametrize("mode", ["top-k", "sampled"])
def test_a_capture_that_was_broken_off_goes_on_without_asking_again(
    mode: str, kept: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, examples = decoder(LLAMA), rows(30)
    whole = hashes(kept(teacher, examples, mode=mode, k=6, name="whole"))
    assert len(whole) == 5  # four shards and the manifest
    for shard in (tmp_path / "work").iterdir():
        shard.unlink()
    asked: list[int] = []
    ask = sparse.ask

    def dying(model: Any, some: list[Example], *rest: Any, **named: Any) -> Any:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(some))
        return ask(model, some, *rest, **named)

    monkeypatch.setattr(signals, "ask", dying)
    with pytest.raises(KeyboardInterrupt):
        kept(teacher, examples, mode=mode, k=6, name="broken")
    assert not list((tmp_path / "broken").iterdir())
    again: list[str] = []

    def counting(model: Any, some: list[Example], *rest: Any, **named: Any) -> Any:
        again.extend(example.key for example in some)
        return ask(model, some, *rest, **named)

    monkeypatch.setattr(signals, "ask", counting)
    assert hashes(kept(teacher, examples, mode=mode, k=6, name="resumed")) == whole
    assert again == [example.key for example in examples[16:]]
    forwards: list[int] = []
    teacher.register_forward_hook(lambda *_: forwards.append(1))
    teacher.base_model.register_forward_hook(lambda *_: forwards.append(1))
    assert hashes(kept(teacher, examples, mode=mode, k=6, name="third")) == whole
    assert forwards == []


def test_shards_of_another_plan_or_torn_ones_are_made_anew(
    model: Any, kept: Callable[..., Path], tmp_path: Path
) -> None:
    examples = rows(20)
    whole = hashes(kept(model, examples, k=6, name="whole"))
    kept(model, examples, k=5, name="other")
    kept(model, rows(40)[20:], k=6, name="others")
    torn = tmp_path / "work" / "000001.safetensors"
    torn.write_bytes(torn.read_bytes()[:-3])
    assert hashes(kept(model, examples, k=6, name="again")) == whole


@pytest.mark.parametrize("field", ["teacher", "tokenizer", "template"])
def test_another_teacher_tokenizer_or_template_is_refused(field: str, model: Any, kept: Callable[..., Path]) -> None:
    examples = rows(5)
    folder = kept(model, examples)
    with pytest.raises(IntegrityError, match=f"another {field}$") as caught:
        read(folder, dataclasses.replace(SOURCE, **{field: "other"}), examples, vocabulary=VOCABULARY)
    assert caught.value.hint is not None


def test_other_rows_are_refused_and_fewer_are_found(model: Any, kept: Callable[..., Path]) -> None:
    examples = rows(9)
    folder = kept(model, examples[:7])
    with pytest.raises(IntegrityError, match="lacks 2 of the 9 rows"):
        read(folder, SOURCE, examples, vocabulary=VOCABULARY)
    found = read(folder, SOURCE, examples[3:5], vocabulary=VOCABULARY).lookup([examples[4].key])
    assert torch.equal(found.ids[:, 0], dense(model, examples[4:5]).argmax(1))


@pytest.mark.parametrize("place", [0, -1])
def test_other_tokens_of_a_row_are_refused(place: int, model: Any, kept: Callable[..., Path]) -> None:
    examples = rows(5)
    folder = kept(model, examples)
    ids = list(examples[2].ids)
    ids[place] = (ids[place] + 1) % VOCABULARY
    examples[2] = dataclasses.replace(examples[2], ids=tuple(ids))
    with pytest.raises(IntegrityError, match="in other tokens"):
        read(folder, SOURCE, examples, vocabulary=VOCABULARY)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / MANIFEST).unlink(),
        lambda folder: (folder / MANIFEST).write_text("{"),
        lambda folder: (folder / MANIFEST).write_text("[]"),
        lambda folder: (folder / "000000.safetensors").unlink(),
        lambda folder: (folder / "000000.safetensors").write_bytes(b"junk"),
    ],
)
def test_a_damaged_cache_is_refused(spoil: Any, model: Any, kept: Callable[..., Path]) -> None:
    examples = rows(5)
    folder = kept(model, examples)
    spoil(folder)
    with pytest.raises(IntegrityError, match="no readable signals"):
        read(folder, SOURCE, examples, vocabulary=VOCABULARY)


def test_padding_of_the_vocabulary_is_dropped_and_its_mass_goes_to_the_others(kept: Callable[..., Path]) -> None:
    teacher = decoder(LLAMA, vocab_size=64)  # as 152,064 is to the tokenizer, and 48 as 151,936
    examples = rows(9)
    opened = read(kept(teacher, examples, k=64), SOURCE, examples, vocabulary=48)
    found = opened.lookup([example.key for example in examples])
    assert int(found.ids.max()) < VOCABULARY
    torch.testing.assert_close(found.logprobs.exp().sum(1), torch.ones(len(found.ids)), atol=2e-3, rtol=0)
    torch.testing.assert_close(scattered(found), dense(teacher, examples).exp(), atol=2e-4, rtol=0)
    with pytest.raises(IntegrityError, match="39 logits, fewer than its tokenizer's 40"):
        read(next(opened._folder.parent.glob("cache")), SOURCE, examples, vocabulary=39)


def test_a_teacher_with_fewer_pieces_than_its_tokenizer_is_refused(model: Any, kept: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="40 logits, and its tokenizer 41"):
        kept(model, rows(3), dataclasses.replace(SOURCE, pieces=41))


def test_answers_that_are_not_numbers_are_refused(kept: Callable[..., Path]) -> None:
    teacher = decoder(LLAMA)
    teacher.get_submodule("model.norm").register_forward_hook(
        lambda _module, _inputs, states: states * float("nan") if len(states) > 1 else states
    )
    with pytest.raises(StageError, match="not numbers"):
        kept(teacher, rows(8))


@pytest.fixture(scope="module")
def trimmed() -> tuple[Any, Any, tuple[int, ...], list[Example], list[Example]]:
    """A teacher's tokenizer, a trimmed student's, the pieces kept, and rows in both; the last needs a lost piece."""
    teacher = chat_tokenizer()
    answers = ["the door is open", "play a song in the hall", "louder jazz"]
    texts = [teacher.apply_chat_template([*turns("lock it"), {"role": "assistant", "content": a}], tokenize=False)
             for a in answers[:2]]  # fmt: skip
    small = trim(teacher.backend_tokenizer, texts)
    student = wrapped(small.tokenizer)
    both = [[encode(one, turns("lock it"), answer, 100) for answer in answers] for one in (teacher, student)]
    assert all(isinstance(example, Example) for of_one in both for example in of_one)
    return teacher, student, small.kept, both[0], both[1]  # type: ignore[return-value]


def test_a_trimmed_student_gets_its_own_ids_and_what_it_lacks_goes_to_all_others_alike(
    trimmed: tuple[Any, Any, tuple[int, ...], list[Example], list[Example]], kept: Callable[..., Path]
) -> None:
    tokenizer, _, pieces, theirs, ours = trimmed
    source = source_of(tokenizer, "t")
    teacher = decoder(LLAMA, vocab_size=source.pieces, max_position_embeddings=128)
    opened = read(kept(teacher, theirs, source, k=60), source, ours, vocabulary=len(pieces), kept=pieces)
    found = opened.lookup([ours[1].key, ours[0].key])
    said = dense(teacher, [theirs[1], theirs[0]], source.pieces).exp()
    best = said.topk(60)
    expected = torch.zeros_like(said).scatter(1, best.indices, best.values)
    beyond = 1 - expected.sum(dim=1)
    expected = expected[:, torch.tensor(pieces)]
    left = expected.sum(dim=1) + beyond
    assert (left < 0.99).all()
    assert found.usable.all()
    assert not found.present.all()
    torch.testing.assert_close(scattered(found, len(pieces)), expected / left[:, None], atol=4e-4, rtol=0)
    torch.testing.assert_close(1 - found.logprobs.exp().sum(dim=1), beyond / left, atol=2e-3, rtol=0)
    assert (found.ids[~found.present] == 0).all()
    assert (found.logprobs[~found.present] == ABSENT).all()


def said_to_a_student_without_the_second_piece(
    distribution: list[float], kept: Callable[..., Path], **settings: Any
) -> signals.Sparse:
    """What a teacher with this distribution at every token says to a student that has its pieces 0, 2 and 3."""
    teacher = decoder(LLAMA, vocab_size=8)
    head = teacher.get_output_embeddings()
    with torch.no_grad():
        head.weight.zero_()
    head.bias = torch.nn.Parameter(torch.cat((torch.tensor(distribution).log(), torch.zeros(4))))
    pieces = (0, 2, 3)
    ours = [Example(key=digest(row), ids=(0, 1, 2, row), answer_start=1) for row in range(2)]
    theirs = [dataclasses.replace(example, ids=tuple(pieces[number] for number in example.ids)) for example in ours]
    source = dataclasses.replace(SOURCE, pieces=4)
    opened = read(kept(teacher, theirs, source, **settings), source, ours, vocabulary=3, kept=pieces)
    return opened.lookup([example.key for example in ours])


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [([0.5, 0.3, 0.15, 0.05], [0.5 / 0.7, 0.15 / 0.7, 0.05 / 0.7]), ([0.006, 0.99, 0.003, 0.001], [0.6, 0.3, 0.1])],
)
@pytest.mark.parametrize("settings", [{"k": 3}, {"k": 4}, {"mode": "sampled", "k": 60_000}])
def test_a_trimmed_student_learns_the_teachers_distribution_over_its_own_pieces(
    distribution: list[float], expected: list[float], settings: dict[str, Any], kept: Callable[..., Path]
) -> None:
    found = said_to_a_student_without_the_second_piece(distribution, kept, **settings)
    logits = torch.zeros(len(found.ids), 3, requires_grad=True)
    for _ in range(200):
        if "mode" in settings:
            loss = sampled_kl(logits, found.ids, found.logprobs).sum()
        else:
            loss = sparse_kl(logits, found.ids, found.logprobs, 1.0).sum()
        (gradient,) = torch.autograd.grad(loss, logits)
        logits = (logits - 2 * gradient).detach().requires_grad_()
    if "mode" in settings:
        torch.testing.assert_close(found.logprobs.exp().sum(dim=1), torch.ones(len(found.ids)))
    few_draws_left = "mode" in settings and distribution[1] > 0.9
    torch.testing.assert_close(
        logits.softmax(dim=1).mean(dim=0), torch.tensor(expected), atol=0.05 if few_draws_left else 0.01, rtol=0
    )


@pytest.mark.parametrize(
    ("distribution", "settings"),
    [
        ([1e-5, 1 - 3e-5, 1e-5, 1e-5], {"k": 4}),
        ([1e-5, 1 - 3e-5, 1e-5, 1e-5], {"mode": "sampled", "k": 50}),
        ([0.2, 0.4, 0.2, 0.2], {"k": 1}),
    ],
)
def test_where_a_trimmed_student_lacks_all_that_the_teacher_says_there_is_no_divergence(
    distribution: list[float], settings: dict[str, Any], kept: Callable[..., Path]
) -> None:
    found = said_to_a_student_without_the_second_piece(distribution, kept, **settings)
    assert found.usable.all()
    assert not found.present.any()
    assert (found.ids == 0).all()
    logits = torch.randn(len(found.ids), 3, requires_grad=True)
    for loss in (sparse_kl(logits, found.ids, found.logprobs, 2.0), sampled_kl(logits, found.ids, found.logprobs)):
        assert torch.equal(loss, torch.zeros(len(found.ids)))
        assert not torch.autograd.grad(loss.sum(), logits)[0].any()


def test_a_row_that_a_trimmed_student_writes_in_other_tokens_is_counted_and_never_paired(
    trimmed: tuple[Any, Any, tuple[int, ...], list[Example], list[Example]], kept: Callable[..., Path]
) -> None:
    tokenizer, student, pieces, theirs, ours = trimmed
    source = source_of(tokenizer, "t")
    teacher = decoder(LLAMA, vocab_size=source.pieces, max_position_embeddings=128)
    opened = read(kept(teacher, theirs, source), source, ours, vocabulary=len(pieces), kept=pieces)
    assert len(ours[2].answer) > len(theirs[2].answer)
    assert student.decode(ours[2].answer) == tokenizer.decode(theirs[2].answer)
    assert opened.unusable == {ours[2].key}
    found = opened.lookup([ours[0].key, ours[2].key, ours[1].key])
    sizes = [len(ours[row].answer) for row in (0, 2, 1)]
    assert found.usable.tolist() == [True] * sizes[0] + [False] * sizes[1] + [True] * sizes[2]
    assert not found.present[~found.usable].any()
    assert torch.equal(found.ids[found.usable], opened.lookup([ours[0].key, ours[1].key]).ids)
    assert found.logprobs.exp().isfinite().all()


@pytest.mark.parametrize("mode", ["top-k", "sampled"])
def test_a_token_takes_at_most_300_bytes_at_the_largest_vocabularies(mode: str, kept: Callable[..., Path]) -> None:
    pieces = 152_064
    teacher = decoder(LLAMA, vocab_size=pieces, hidden_size=12, intermediate_size=8, num_hidden_layers=1)
    examples = rows(24, pieces)
    assert max(max(example.ids) for example in examples) > 2**17
    source = dataclasses.replace(SOURCE, pieces=pieces)
    folder = kept(teacher, examples, source, mode=mode)
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size / sum(len(example.answer) for example in examples) <= 300
    found = read(folder, source, examples, vocabulary=pieces).lookup([example.key for example in examples])
    assert int(found.ids.max()) > 2**17
    if mode == "top-k":
        assert torch.equal(found.ids[:, 0], dense(teacher, examples, pieces).argmax(1))


def test_the_head_sees_answer_tokens_only_and_some_at_a_time(
    kept: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse, "LOGITS_AT_ONCE", 7 * VOCABULARY)
    teacher, examples = decoder(LLAMA), rows(20)
    seen: list[int] = []
    folder = kept(teacher, examples[:1], k=3, name="probed")
    whole = sparse.logits_of

    def watched(model: Any, hidden: torch.Tensor) -> torch.Tensor:
        seen.append(hidden.numel() // hidden.shape[-1])
        return whole(model, hidden)

    monkeypatch.setattr(sparse, "logits_of", watched)
    folder = kept(teacher, examples, k=3)
    assert max(seen) <= 7
    assert sum(seen) == 1 + sum(len(example.answer) for example in examples)  # 1: the probe of one token
    found = read(folder, SOURCE, examples, vocabulary=VOCABULARY).lookup([example.key for example in examples])
    assert torch.equal(found.ids, dense(teacher, examples).topk(3).indices)


def test_the_source_changes_with_tokenizer_and_template_and_not_with_padding() -> None:
    first = source_of(chat_tokenizer(CHATML), "t")
    padded = chat_tokenizer(CHATML)
    padded(list(CORPUS), padding=True, truncation=True, max_length=4)
    assert source_of(padded, "t") == first
    assert source_of(chat_tokenizer(GEMMA), "t") == dataclasses.replace(
        first, template=source_of(chat_tokenizer(GEMMA), "t").template
    )
    assert source_of(chat_tokenizer(GEMMA), "t").template != first.template
    assert source_of(chat_tokenizer(size=300), "t").tokenizer != first.tokenizer
    assert first.pieces == len(chat_tokenizer())
