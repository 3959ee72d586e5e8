"""Greedy answers of a GGUF file from one of llama.cpp's packages, in a Python that holds nothing else of edgedistill.

`python greedy.py REQUEST` reads a JSON file and writes reply.json beside it, {"answers": [[token, …], …], "features":
["NEON", …]}. The request is

    {"package": "xllamacpp", "file": "/…/model.gguf", "prompts": [[token, …], …], "new_tokens": 16, "threads": 1}

Features are those of the processor that the package's arithmetic uses. An answer comes without the token that ends it.
The program also runs on the emulated board, so it takes nothing but the standard library and the package.
"""

from __future__ import annotations

import http.client
import importlib
import json
import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPLY = "reply.json"
SOCKET = "server.sock"
"""In the working folder, so that no port is opened and nobody else reaches the server."""

Found = tuple[list[list[int]], str]
"""The answers, and what llama.cpp says of the processor: `NEON = 1 | DOTPROD = 0`."""


class _Local(http.client.HTTPConnection):
    """HTTP over a file."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(SOCKET)


def by_xllamacpp(file: str, prompts: Sequence[Sequence[int]], new_tokens: int, threads: int) -> Found:
    """The answers of xllamacpp: it has llama.cpp's server and nothing else, and tokens only come over HTTP."""
    package: Any = importlib.import_module("xllamacpp")
    settings = package.CommonParams()
    settings.model.path = file
    settings.hostnames = [SOCKET]
    settings.n_parallel, settings.n_ctx = 1, max(map(len, prompts)) + new_tokens
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    settings.warmup = settings.fit_params = False
    settings.verbosity = -1
    server = package.Server(settings)  # its threads end with the process
    answers = []
    for prompt in prompts:
        asked = {
            "prompt": list(prompt),
            "n_predict": new_tokens,
            "samplers": ["top_k"],
            "top_k": 1,
            "cache_prompt": True,  # what a prompt has in common with the one before is read once
            "return_tokens": True,
        }
        answer = _post("/completion", asked)
        answers.append(answer["tokens"][:-1] if answer["stop_type"] == "eos" else answer["tokens"])
    said = package.get_system_info()
    del server
    return answers, said


def by_llama_cpp_python(file: str, prompts: Sequence[Sequence[int]], new_tokens: int, threads: int) -> Found:
    """The answers of llama-cpp-python, as the bundle's runtime has them."""
    package: Any = importlib.import_module("llama_cpp")
    engine = package.Llama(
        file, n_ctx=max(map(len, prompts)) + new_tokens, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    vocabulary = package.llama_model_get_vocab(engine.model)
    answers = []
    for prompt in prompts:
        answer: list[int] = []
        for token in engine.generate(list(prompt), temp=0.0):
            if package.llama_vocab_is_eog(vocabulary, token):
                break
            answer.append(token)
            if len(answer) == new_tokens:
                break
        answers.append(answer)
    return answers, package.llama_print_system_info().decode()


def _post(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    connection = _Local("localhost")
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    text = response.read().decode()
    if response.status != 200:
        raise RuntimeError(f"{path} answered {response.status}: {text}")
    found: dict[str, Any] = json.loads(text)
    return found


PACKAGES = {"xllamacpp": by_xllamacpp, "llama-cpp-python": by_llama_cpp_python}

if __name__ == "__main__":
    path = Path(sys.argv[1])
    request = json.loads(path.read_text(encoding="utf-8"))
    answers, said = PACKAGES[request.pop("package")](**request)
    features = re.findall(r"(\w+) = [1-9]", said)
    path.with_name(REPLY).write_text(json.dumps({"answers": answers, "features": features}), encoding="utf-8")
    os._exit(0)  # the server's threads hold nothing that must be kept, and under emulation one may wait for ever
