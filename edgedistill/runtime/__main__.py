"""The commands of a bundle: `python -m runtime predict "text"`, `chat`, `measure`, `info`."""

import argparse
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
"""The bundle: the folder that holds `runtime/`."""
WRITERS = {"llama-cpp-python": "engine_llama", "onnxruntime-genai": "engine_genai"}
"""What answers conversations in text, by the engine that the manifest names."""
TEXT_TO_TEXT = "text-to-text"
"""The task of a bundle whose model writes a text for a text, and takes no conversation."""
STDIN = "-"
"""In the place of texts: they come from standard input."""
READER = "reader"
"""The task of a bundle whose model points at the answer to a question in a context."""
CLASSIFIERS = {"onnxruntime": "engine_onnx", "numpy": "engine_static"}
"""What labels texts, by the engine that the manifest names."""
MEASURED_TOKENS = 32
"""Of each answer that is measured."""


class Refused(Exception):
    """What was asked for is not something that this bundle does. The message says what is."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m runtime", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=HERE, help="the folder with manifest.json")
    parser.add_argument("--threads", type=int, help="of the engine (default: as the manifest says)")
    commands = parser.add_subparsers(dest="command", required=True)
    predict = commands.add_parser(
        "predict",
        help="label texts, or pairs with a tab between; answer questions, each with a tab and its context behind; or "
        "write a text for each: arguments, or input lines",
    )
    predict.add_argument("texts", nargs="*", help="left out: lines from standard input; -: the same, and --json")
    predict.add_argument("--json", action="store_true", help="one JSON object a line, with the probability")
    predict.add_argument("--context", type=Path, help="a text file in which all questions find their answers")
    chat = commands.add_parser("chat", help="answer a question, or a conversation: lines from standard input")
    chat.add_argument("text", nargs="?")
    chat.add_argument("--system", help="what the model is told before the conversation")
    chat.add_argument("--max-tokens", type=int, default=256, help="of each answer (default: 256)")
    measure = commands.add_parser("measure", help="print raw samples as JSON")
    measure.add_argument(
        "--texts",
        type=Path,
        required=True,
        help="a JSON list of texts, of pairs of texts, such as a question and its context, or of conversations: lists "
        "of turns with role and content",
    )
    measure.add_argument("--batch-rows", type=int, default=32)
    measure.add_argument("--what", choices=["timing", "memory", "answers", "writing"], default="timing")
    commands.add_parser("info", help="print what the bundle is")
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except BrokenPipeError:
        return 0
    except Refused as error:
        print(f"runtime: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"runtime: {error}; run: pip install -r {options.bundle / 'requirements.txt'}", file=sys.stderr)
        return 1
    except Exception as error:  # tokenizers and onnxruntime raise errors of no common kind
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        print(f"runtime: {options.bundle} cannot be used: {reason}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    if options.command == "info":
        manifest = _manifest(options)
        print(json.dumps({key: manifest[key] for key in ("name", "target", "engine", "model")}, indent=2))
        return 0
    if options.command == "chat":
        _chat(options)
        return 0
    if options.command == "measure":
        print(json.dumps(_measure(options)))
        return 0
    task = _manifest(options).get("task")
    if options.context is not None and task != READER:
        raise Refused("its model answers no questions; leave --context out")
    if task == TEXT_TO_TEXT:
        return _rewrite(options)
    if _manifest(options)["engine"]["name"] in WRITERS:
        raise Refused("its model answers conversations; use chat")
    if task == READER:
        return _answer(options)
    engine = _engine(options)
    classifier = engine.Classifier(options.bundle, threads=options.threads)
    for text in _texts(options):
        scores = engine.probabilities(classifier([_pair(text) if classifier.pairs else text]))[0]
        best = int(scores.argmax())
        if options.json:
            answer = {"text": text, "label": classifier.labels[best], "probability": round(float(scores[best]), 4)}
            print(json.dumps(answer, ensure_ascii=False), flush=True)
        else:
            print(f"{classifier.labels[best]}\t{scores[best]:.3f}", flush=True)
    return 0


def _texts(options: argparse.Namespace) -> Iterator[str]:
    """The texts to answer, each as soon as it is there: whoever writes lines may wait for each answer."""
    if options.texts and options.texts != [STDIN]:
        yield from options.texts
        return
    options.json |= options.texts == [STDIN]
    for line in sys.stdin:
        yield line.rstrip("\n")


def _pair(text: str) -> tuple[str, str]:
    first, tab, second = text.partition("\t")
    if not tab:
        raise Refused(f"it labels pairs; write a tab between the two texts, not {text!r}")
    return first, second


def _manifest(options: argparse.Namespace) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((options.bundle / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def _engine(options: argparse.Namespace) -> Any:
    """The module that labels texts."""
    return importlib.import_module(f"{__package__}.{CLASSIFIERS[_manifest(options)['engine']['name']]}")


def _answer(options: argparse.Namespace) -> int:
    """Finds the answers to some questions."""
    reader = _engine(options).Reader(options.bundle, threads=options.threads)
    try:
        shared = None if options.context is None else options.context.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{options.context} cannot be read: {error}") from error
    for text in _texts(options):
        question, tab, context = (text, "", shared) if shared is not None else text.partition("\t")
        if shared is None and not tab:
            raise Refused(f"it answers questions; write a tab and the context behind {text!r}, or give --context")
        try:
            found = reader(question, context)
        except ValueError as error:
            raise Refused(f"{text[:60]!r}: {error}") from error
        if options.json:
            told = {"answer": found.text, "start": found.start, "end": found.end, "score": round(found.score, 4)}
            print(json.dumps({"question": question, **told}, ensure_ascii=False), flush=True)
        else:
            print(f"{' '.join(found.text.split())}\t{found.start}\t{found.end}\t{found.score:.3f}", flush=True)
    return 0


def _rewrite(options: argparse.Namespace) -> int:
    """Writes a text for each of some texts."""
    engine = importlib.import_module(f"{__package__}.engine_seq2seq")
    model = engine.TextToText(options.bundle, threads=options.threads)
    for text in _texts(options):
        answer = "".join(model.stream(text))
        print(json.dumps({"text": text, "answer": answer}, ensure_ascii=False) if options.json else answer, flush=True)
    return 0


def _writer(options: argparse.Namespace) -> Any:
    """What answers conversations in text."""
    name = _manifest(options)["engine"]["name"]
    if name not in WRITERS:
        raise Refused(f"its engine {name} writes no text; use predict")
    return importlib.import_module(f"{__package__}.{WRITERS[name]}").Chat(options.bundle, threads=options.threads)


def _chat(options: argparse.Namespace) -> None:
    chat = _writer(options)
    said = [] if options.system is None else [{"role": "system", "content": options.system}]
    for line in [options.text] if options.text is not None else sys.stdin:
        said.append({"role": "user", "content": line.rstrip("\n")})
        answer = ""
        for piece in chat.stream(said, max_tokens=options.max_tokens):
            print(piece, end="", flush=True)
            answer += piece
        print(flush=True)
        said.append({"role": "assistant", "content": answer})


def _load_writer(options: argparse.Namespace) -> Any:
    """What gives the tokens of the answers to some conversations, or texts, one by one."""
    if _manifest(options).get("task") == TEXT_TO_TEXT:
        model = importlib.import_module(f"{__package__}.engine_seq2seq").TextToText(
            options.bundle, threads=options.threads
        )
        return lambda texts: (token for text in texts for token in model.tokens(text, max_tokens=MEASURED_TOKENS))
    chat = _writer(options)
    # Of an answer that may fill the context, so that the memory for all of it is set aside where it is measured.
    return lambda conversations: (
        token
        for turns in conversations
        for token in islice(chat.tokens(chat.prompt(turns), max_tokens=chat.context), MEASURED_TOKENS)
    )


def _load_whole_writer(options: argparse.Namespace) -> Any:
    """The same, answers as a whole."""
    write = _load_writer(options)
    return lambda conversations: list(write(conversations))


def _load_answerer(options: argparse.Namespace) -> Any:
    """What answers some texts with logits, or some questions with spans."""
    if _manifest(options).get("task") == READER:
        reader = _engine(options).Reader(options.bundle, threads=options.threads)
        return lambda questions: [reader(*question) for question in questions]
    return _engine(options).Classifier(options.bundle, threads=options.threads)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    from . import measure

    told = _manifest(options)
    writes = told["engine"]["name"] in WRITERS or told.get("task") == TEXT_TO_TEXT
    if not writes:
        _engine(options)  # it is there before the model's memory is counted
    load = partial(_load_whole_writer if writes else _load_answerer, options)
    found = json.loads(options.texts.read_text(encoding="utf-8"))
    if not isinstance(found, list) or not found:
        raise ValueError(f"{options.texts} is no JSON list of texts, pairs or conversations")
    if told["engine"]["name"] in WRITERS:
        texts = [[{"role": "user", "content": text}] if isinstance(text, str) else text for text in found]
    else:
        texts = [tuple(text) if isinstance(text, list) else text for text in found]
    wanted = 2 if told.get("task") == READER else None
    if wanted and not all(isinstance(text, tuple) and len(text) == wanted for text in texts):
        raise Refused(f"{options.texts} must hold questions with their contexts: [question, context]")
    if options.what == "memory":
        return measure.memory(load, texts)
    if writes:
        return measure.writing(partial(_load_writer, options), texts)
    if options.what == "answers":
        answer = load()
        if told.get("task") == READER:
            return {"spans": [[span.start, span.end, span.score] for span in answer(texts)]}
        return {"logits": [answer([text])[0].tolist() for text in texts]}
    return measure.timing(load, texts, batch_rows=options.batch_rows)


if __name__ == "__main__":
    sys.exit(main())
