"""The commands of a bundle: `python -m runtime predict "text"`, `chat`, `measure`, `info`."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from .engines import READER, TEXT_TO_TEXT, WRITERS, Refused, labels, manifest, rewriter, writer

HERE = Path(__file__).resolve().parent.parent
"""The bundle: the folder that holds `runtime/`."""
STDIN = "-"
"""In the place of texts: they come from standard input."""


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
    measure.add_argument("--batch-rows", type=int, default=32, help="texts a call when throughput is measured")
    measure.add_argument("--what", choices=["timing", "memory", "answers", "writing"], default="timing")
    measure.add_argument(
        "--cell",
        type=Path,
        help="a JSON object: within (repeat until the 95 %% interval of the median is this share of it to either side; "
        "null: each text once), limit_s, batch_rows, and of a model that writes prompt_tokens (a list of lengths) and "
        "new_tokens (at least 2)",
    )
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
        told = manifest(options.bundle)
        print(json.dumps({key: told[key] for key in ("name", "target", "engine", "model")}, indent=2))
        return 0
    if options.command == "chat":
        _chat(options)
        return 0
    if options.command == "measure":
        from . import cell

        asked = {"batch_rows": options.batch_rows} | ({} if options.cell is None else cell.read(options.cell))
        print(json.dumps(cell.run(options.bundle, options.threads, options.what, options.texts, asked)))
        return 0
    task = manifest(options.bundle).get("task")
    if options.context is not None and task != READER:
        raise Refused("its model answers no questions; leave --context out")
    if task == TEXT_TO_TEXT:
        return _rewrite(options)
    if manifest(options.bundle)["engine"]["name"] in WRITERS:
        raise Refused("its model answers conversations; use chat")
    if task == READER:
        return _answer(options)
    engine = labels(options.bundle)
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


def _answer(options: argparse.Namespace) -> int:
    """Finds the answers to some questions."""
    reader = labels(options.bundle).Reader(options.bundle, threads=options.threads)
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
    model = rewriter(options.bundle, options.threads)
    for text in _texts(options):
        answer = "".join(model.stream(text))
        print(json.dumps({"text": text, "answer": answer}, ensure_ascii=False) if options.json else answer, flush=True)
    return 0


def _chat(options: argparse.Namespace) -> None:
    chat = writer(options.bundle, options.threads)
    said = [] if options.system is None else [{"role": "system", "content": options.system}]
    for line in [options.text] if options.text is not None else sys.stdin:
        said.append({"role": "user", "content": line.rstrip("\n")})
        answer = ""
        for piece in chat.stream(said, max_tokens=options.max_tokens):
            print(piece, end="", flush=True)
            answer += piece
        print(flush=True)
        said.append({"role": "assistant", "content": answer})


if __name__ == "__main__":
    sys.exit(main())
