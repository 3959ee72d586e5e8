"""Classifiers as teachers: the probabilities of every class, for one text and for pairs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from edgedistill.config import LabelTeacher
from edgedistill.errors import InputError
from edgedistill.teachers import local
from edgedistill.teachers.encoder import BATCH, Encoder
from edgedistill.types import Reply
from tests.teachers.asks import LABELS, answers, ask

TEXTS = ("open the door", "a song", "make it very bright in the kitchen now please", "水!?")
PAIRS = (("the light", "dark now"), ("a song in the hall", "louder jazz"), ("key", "door"))


@pytest.fixture(scope="session")
def classifier(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder with a head for the labels."""
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(3)
    model = local.load(tiny_teacher, LABELS)
    with torch.no_grad():
        for parameter in model.get_submodule("classifier").parameters():
            parameter.normal_()
    local.save(model, folder)
    shutil.copy(tiny_teacher / "tokenizer.json", folder)
    return folder


def encoder(folder: Path, labels: tuple[str, ...] = LABELS) -> Encoder:
    return Encoder(LabelTeacher(kind="encoder", model=str(folder), name="bert"), folder, labels)


def replies(teacher: Encoder, *fields: tuple[str, ...]) -> list[Reply]:
    found = answers(teacher, *(ask(" ".join(own), fields=own, labels=LABELS) for own in fields))
    return [one for one in found if isinstance(one, Reply)]


def shares(one: Reply) -> list[float]:
    assert one.probabilities is not None
    return [one.probabilities[label] for label in LABELS]


def singles(*texts: str) -> list[tuple[str, ...]]:
    return [(text,) for text in texts]


@pytest.mark.parametrize("fields", [singles(*TEXTS), list(PAIRS)], ids=["texts", "pairs"])
def test_every_class_gets_its_probability_and_the_likeliest_is_the_answer(
    classifier: Path, fields: list[tuple[str, ...]]
) -> None:
    found = replies(encoder(classifier), *fields)
    assert len(found) == len(fields)
    for one in found:
        assert list(one.probabilities or ()) == list(LABELS)
        assert sum(shares(one)) == pytest.approx(1)
        assert json.loads(one.text) == {"answer": max(LABELS, key=(one.probabilities or {}).__getitem__)}
        assert (one.finish, one.completion_tokens, one.id) == ("stop", 0, None)
    assert len({one.text for one in found}) + len({tuple(shares(one)) for one in found}) > 2


@pytest.mark.parametrize("fields", [singles(*TEXTS), list(PAIRS)], ids=["texts", "pairs"])
def test_a_batch_changes_no_probability(classifier: Path, fields: list[tuple[str, ...]]) -> None:
    teacher = encoder(classifier)
    for own, one in zip(fields, replies(teacher, *fields), strict=True):
        (alone,) = replies(teacher, own)
        assert shares(one) == pytest.approx(shares(alone), abs=1e-5)
        assert one.prompt_tokens == alone.prompt_tokens


def test_probabilities_are_those_of_the_model(classifier: Path) -> None:
    tokenizer = Tokenizer.from_file(str(classifier / "tokenizer.json"))
    model = local.load(classifier, LABELS)
    first, second = PAIRS[0]
    row = tokenizer.encode(first, second)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([row.ids]), token_type_ids=torch.tensor([row.type_ids])).logits[0]
    (found,) = replies(encoder(classifier), PAIRS[0])
    assert shares(found) == pytest.approx(logits.softmax(-1).tolist(), abs=1e-6)
    assert found.prompt_tokens == len(row.ids)


def test_the_second_text_of_a_pair_counts_and_so_does_which_is_which(classifier: Path) -> None:
    one, turned, alone = replies(encoder(classifier), PAIRS[0], PAIRS[0][::-1]) + replies(
        encoder(classifier), (" ".join(PAIRS[0]),)
    )
    assert shares(one) != pytest.approx(shares(turned), abs=1e-4)
    assert shares(one) != pytest.approx(shares(alone), abs=1e-4)


def test_labels_in_another_order_keep_their_probabilities(classifier: Path) -> None:
    (one,), (other,) = (replies(encoder(classifier, labels), ("a song",)) for labels in (LABELS, LABELS[::-1]))
    assert list(other.probabilities or ()) == list(LABELS[::-1])
    assert shares(one) == pytest.approx(shares(other))


@pytest.mark.parametrize("fields", [("door " * 500,), ("door " * 500, "light " * 500)], ids=["text", "pair"])
def test_a_text_that_is_too_long_is_cut(classifier: Path, fields: tuple[str, ...]) -> None:
    (found,) = replies(encoder(classifier), fields)
    assert found.prompt_tokens == 64
    assert sum(shares(found)) == pytest.approx(1)


def test_it_says_what_it_gives_and_its_weights_and_tokenizer_name_it(classifier: Path) -> None:
    teacher = encoder(classifier)
    assert (teacher.name, teacher.batch, teacher.enforces) == ("bert", BATCH, True)
    assert "class probabilities" in teacher.gives
    assert "text" not in teacher.gives
    assert teacher.identity == {"kind": "encoder", "sha256": local.inspect(classifier, LABELS, name="").sha256}


@pytest.mark.parametrize("labels", [("door", "light"), ("door", "light", "sound"), (*LABELS, "heat"), ()])
def test_a_head_for_other_labels_is_refused(classifier: Path, labels: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=f"no head for the {len(labels)} labels"):
        encoder(classifier, labels)


def test_an_encoder_without_a_head_is_refused(tiny_teacher: Path) -> None:
    with pytest.raises(InputError, match="no head for the 3 labels"):
        encoder(tiny_teacher)
