"""llama.cpp in a child process of its own, with limits: it reads files that may be wrong, and it ends by aborting.

`ask` starts `python -m edgedistill.export.gguf.engine FILE`, where FILE holds the request as JSON; what the child finds
out it writes beside it. Nothing heavy is imported before the limits stand.
"""

from __future__ import annotations

import ctypes
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgedistill.errors import MissingExtra
from edgedistill.links import local

REPLY = "reply.json"
SPARE_BYTES = 6 << 30
"""Address space beyond the file's own size: the program, its libraries, the context and its threads."""
MOST_CHARACTERS = 100_000
"""Of what a template makes of one question: a hostile one would fill the parent's memory."""


@contextmanager
def ask(request: Mapping[str, Any], *, bytes_read: int, cpu_s: int = 24 * 3600) -> Iterator[Path]:
    """Runs one request in a child and gives the folder with what it wrote, until the block ends.

    Args:
        request: "do" is "answer", "pool", "quantize" or "render"; the rest are that function's arguments.
        bytes_read: size of the file that the child opens; its memory limit follows from it, unless the request has one.
        cpu_s: processor time that the child may take; unlike seconds it does not depend on what else is running.

    Raises:
        MissingExtra: llama-cpp-python is not installed.
        EngineCrashed: the child failed, was killed or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="edgedistill-gguf-") as name:
        folder = Path(name)
        limit = SPARE_BYTES + 4 * bytes_read
        (folder / "request.json").write_text(json.dumps({"memory_bytes": limit, "cpu_s": cpu_s, **request}))
        local.run(
            [sys.executable, "-m", __name__, folder / "request.json"],
            cwd=folder,
            what="llama.cpp",
        )
        if (folder / REPLY).is_file() and json.loads((folder / REPLY).read_text()).get("missing"):
            raise MissingExtra("llama-cpp-python", extra="gguf")
        yield folder


def reply(folder: Path) -> dict[str, Any]:
    """What the child wrote besides arrays."""
    found: dict[str, Any] = json.loads((folder / REPLY).read_text(encoding="utf-8"))
    return found


def serve(path: Path) -> None:
    """The child's side: sets the limits, does what is asked, writes the reply beside the request."""
    request = json.loads(path.read_text(encoding="utf-8"))
    _limit(request.pop("memory_bytes"), request.pop("cpu_s"))
    try:
        found = _DOES[request.pop("do")](path.parent, **request)
    except ModuleNotFoundError as error:
        if error.name != "llama_cpp":
            raise
        found = {"missing": True}
    (path.parent / REPLY).write_text(json.dumps(found), encoding="utf-8")


def _limit(memory_bytes: int, cpu_s: int) -> None:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(
    folder: Path,
    *,
    file: str,
    texts: Sequence[str],
    special: bool,
    prompts: Sequence[list[int]],
    forced: Sequence[list[int]],
    threads: int,
) -> dict[str, Any]:
    """Pieces of each text, and what each token of the answers given with the prompts is chosen by.

    With `special` the tokenizer puts its own first piece before a text. logits-N.npy is float32
    [len(forced[N]), vocabulary]: row i is what token i is chosen by.
    """
    import numpy as np

    longest = max(len(prompt) + len(more) for prompt, more in zip(prompts, forced, strict=True))
    model = _opened(file, longest, threads, logits_all=True)
    for number, (prompt, more) in enumerate(zip(prompts, forced, strict=True)):
        model.reset()
        model.eval([*prompt, *more[:-1]])
        logits = np.array(model.scores[len(prompt) - 1 : model.n_tokens], dtype=np.float32)
        np.save(folder / f"logits-{number}.npy", logits, allow_pickle=False)
    pieces = [model.tokenize(text.encode(), add_bos=special, special=True) for text in texts]
    return {"pieces": pieces}


def _pool(
    folder: Path, *, file: str, texts: Sequence[str], rows: Sequence[list[int]], width: int, pooling: int, threads: int
) -> dict[str, Any]:
    """An encoder's vector for each row, or its class logits: vectors.npy, float32 [rows, width]."""
    import llama_cpp
    import numpy as np

    longest = max(max(len(row) for row in rows), 8)
    model = _opened(file, longest, threads, embedding=True, pooling_type=pooling)
    vectors = np.empty((len(rows), width), dtype=np.float32)
    batch = llama_cpp.llama_batch_init(longest, 0, 1)
    for number, row in enumerate(rows):
        batch.n_tokens = len(row)
        for at, token in enumerate(row):
            batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, at, 1
            batch.seq_id[at][0], batch.logits[at] = 0, True
        if llama_cpp.llama_encode(model.ctx, batch) != 0:
            raise RuntimeError(f"llama_encode failed at row {number}")
        found = llama_cpp.llama_get_embeddings_seq(model.ctx, 0)
        vectors[number] = np.ctypeslib.as_array(ctypes.cast(found, ctypes.POINTER(ctypes.c_float)), (width,))
    llama_cpp.llama_batch_free(batch)
    np.save(folder / "vectors.npy", vectors, allow_pickle=False)
    return {"pieces": [model.tokenize(text.encode(), add_bos=True, special=True) for text in texts]}


def _opened(file: str, longest: int, threads: int, **settings: Any) -> Any:
    """The model of a file, with room for the longest row, whole in one batch."""
    import llama_cpp

    return llama_cpp.Llama(
        file,
        n_ctx=longest,
        n_batch=longest,
        n_ubatch=longest,
        n_threads=threads,
        n_threads_batch=threads,
        n_gpu_layers=0,
        verbose=False,
        **settings,
    )


def _quantize(
    folder: Path, *, source: str, target: str, file_type: int, importance: str | None, threads: int
) -> dict[str, Any]:
    """llama.cpp's quantizer, with the importance of each column where it is given."""
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = file_type, threads
    kept = []
    if importance is not None:
        from safetensors.numpy import load_file

        weights = load_file(importance)
        entries = (llama_cpp.llama_model_imatrix_data * (len(weights) + 1))()  # the last one, all zero, ends the list
        for entry, (name, values) in zip(entries, weights.items(), strict=False):
            kept.append(values)  # the structure holds an address only
            entry.name, entry.size = name.encode(), values.size
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        parameters.imatrix = entries
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters)) != 0:
        raise RuntimeError("llama_model_quantize failed")
    return {"tensors_with_importance": len(kept)}


def _render(_: Path, *, template: str, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """What a chat template makes of a conversation, or why it makes nothing of it."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda _: ""}
    try:
        text = environment.from_string(template).render(messages=messages, add_generation_prompt=True, **_ENDS)
    except Exception as error:  # a template can fail in any way
        return {"error": f"{type(error).__name__}: {error}"[:MOST_CHARACTERS]}
    return {"text": text[:MOST_CHARACTERS]}


_ENDS = {"bos_token": "<s>", "eos_token": "</s>"}
_DOES: Mapping[str, Callable[..., dict[str, Any]]] = {
    "answer": _answer,
    "pool": _pool,
    "quantize": _quantize,
    "render": _render,
}

if __name__ == "__main__":
    serve(Path(sys.argv[1]))
