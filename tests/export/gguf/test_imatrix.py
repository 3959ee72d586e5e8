from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from edgedistill.errors import InputError
from edgedistill.export.gguf.imatrix import importance

ROWS = [[5, 9, 200, 17], [7, 7, 300]]


def test_it_is_the_mean_square_of_each_layers_input(checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint("smollm2")
    found = importance(folder, ROWS)
    model = AutoModelForCausalLM.from_pretrained(folder).model
    with torch.no_grad():
        # The head, here the embedding table, reads the last layer's output after the norm.
        last = torch.cat([model(torch.tensor([row])).last_hidden_state[0] for row in ROWS])
        first = torch.cat([model.layers[0].input_layernorm(model.embed_tokens(torch.tensor(row))) for row in ROWS])
    assert np.allclose(found["token_embd.weight"], last.square().mean(dim=0), rtol=1e-4)
    assert np.allclose(found["blk.0.attn_q.weight"], first.square().mean(dim=0), rtol=1e-4)
    assert np.array_equal(found["blk.0.attn_q.weight"], found["blk.0.attn_v.weight"])


@pytest.mark.parametrize("family", ["phi3", "gemma3"])
def test_fused_layers_go_by_the_files_names(family: str, checkpoint: Callable[[str], Path]) -> None:
    found = importance(checkpoint(family), ROWS)
    assert ("blk.0.attn_qkv.weight" in found) == (family == "phi3")
    assert all(np.isfinite(values).all() and (values >= 0).all() for values in found.values())


@pytest.mark.parametrize("rows", [[], [[1, 2], []]])
def test_it_needs_rows(rows: list[list[int]], checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="needs rows"):
        importance(checkpoint("smollm2"), rows)
