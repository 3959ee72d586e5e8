"""What a user set and the student that was asked for does not know: it would only look as if it worked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgedistill.config import Request

ON_POLICY = ("beta", "own_share", "own_tokens")
MATCHING = ("hidden_weight", "relation_weight")
"""Of `[distill]`: they compare a student that writes with the inside of its teacher."""
REASONS: Mapping[str, Mapping[str, str]] = {
    "writes": {
        # See `losses.reverse_kl`.
        "divergence": "what is cached of a teacher's distribution bears the forward KL alone, since a student would "
        "lower any other by leaving what was kept; onpolicy has beta, from the forward KL to the reverse one",
        "skew": "what is cached of a teacher's distribution bears the forward KL alone",
    },
    "layers": {
        "relation_weight": "its pieces do not line up with the teacher's, which cuts the same text otherwise",
        "beta": 'it belongs to divergence = "jsd"',
        "skew": 'it belongs to divergence = "skew"',
    },
    "static": {
        "relation_weight": "it has no attention",
        "beta": 'it belongs to divergence = "jsd"',
        "skew": 'it belongs to divergence = "skew"',
    },
}
"""Why, where it is not plain, by kind of student."""


def problem(request: Request) -> str | None:
    """The first key that has no effect, or None."""
    student, distill = request.student, request.distill
    kind = "writes"
    if request.task not in ("classification", "nli"):
        idle = {"student": {"kind"}, "distill": {"divergence", "skew"}}
        if student.model is not None:
            idle["student"] |= {"layers", "width", "ffn", "vocabulary"}
        if distill.route in ("onpolicy", "sequence"):
            idle["distill"] |= {"kd_weight", "signals", "k", "temperature_end"}
        if distill.route in ("tokens", "sequence"):
            idle["distill"] |= {*ON_POLICY}
        who = "a student that writes"
    else:
        kind = student.kind
        idle = {
            "student": {"model", "lora_rank", "width"},
            "distill": {"route", "signals", "k", "own_share", "own_tokens", "relation_weight"},
        }
        idle["distill"] |= {key for key, of in (("beta", "jsd"), ("skew", "skew")) if distill.divergence != of}
        if kind == "static":
            idle["student"] |= {"layers", "ffn"}
            idle["distill"] |= {"hidden_weight"}
        who = f"a student of kind {kind!r}"
    for section, keys in idle.items():
        said = getattr(request, section).model_dump(exclude_defaults=True)
        if found := sorted(keys & said.keys()):
            why = REASONS[kind].get(found[0])
            because = f": {why}" if why else ""
            return f"{section}.{found[0]} has no effect on {who} for {request.task}{because}"
    return _nothing_to_match(request) if kind == "writes" else None


def matches(request: Request) -> bool:
    """Whether the teacher of a student that writes reads along in training."""
    return any(getattr(request.distill, key) for key in MATCHING)


def _nothing_to_match(request: Request) -> str | None:
    """Why the inside of the teacher cannot be matched, though that was asked for."""
    route = request.distill.route
    for key in MATCHING:
        if getattr(request.distill, key) and route in ("sequence", "onpolicy"):
            return f"distill.{key} has no effect on the route {route!r}, only on 'tokens'"
    student = request.student
    if request.distill.hidden_weight and student.width is not None and student.lora_rank is not None:
        return (
            "distill.hidden_weight and student.width do not go with student.lora_rank: checkpoints of adapters do not "
            "hold the map to the teacher's width"
        )
    if request.distill.hidden_weight and request.student.model is not None:
        return (
            "distill.hidden_weight has no effect on a student with a name of its own: which of the teacher's layers "
            "its own belong to is not known; relation_weight needs none of that"
        )
    return None
