"""Summaries of a text or a dialogue."""

from __future__ import annotations

from typing import Any

from edgedistill.tasks.task import Answer, Row, Style, Task, Unusable, json_object, not_empty
from edgedistill.tasks.text import chrf, rouge

STEPS = 3
"""Rewrites of a chain of density. The paper takes five; its readers liked the ones from the third step best."""


class Summarization(Task):
    """A text in, a short summary out. Judged by ROUGE-1, ROUGE-2, ROUGE-L and chrF."""

    name = "summarization"
    inputs = ("text",)
    target = "summary"
    max_tokens = 256
    headline = "rougeL"
    instruction = (
        "Summarize the text in one to three sentences. Say who did or wants what; add nothing that it does not say."
    )

    def problem(self, row: Row) -> str | None:
        """Several human references may stand in for a summary."""
        references = row.get("references", [])
        if not isinstance(references, list) or not all(isinstance(reference, str) for reference in references):
            return "field 'references' is not a list of strings"
        return super().problem(row)

    def has_answer(self, row: Row) -> bool:
        """A row with references is one to be judged by, not to be answered."""
        return super().has_answer(row) or bool(row.get("references"))

    def gold(self, row: Row) -> str | None:
        """The summary, or the first reference."""
        return row["references"][0] if row.get("references") else super().gold(row)

    def system(self, row: Row, style: Style) -> str:
        """The instruction, or the steps of a chain of density."""
        if not style.chain_of_density:
            return super().system(row, style)
        plain = super().system(row, Style(instruction=style.instruction))
        return (
            f"{plain}\nDo it in {STEPS} steps. First write a summary. In each further step name one to three important "
            "details that the summary lacks, and rewrite it with them at the same length.\n"
            'Reply with one JSON object and nothing else: {"steps": [{"missing": "...", "summary": "..."}, ...]}'
        )

    def schema(self, style: Style) -> dict[str, Any] | None:
        """Plain text, unless the steps or a rationale are wanted beside the summary."""
        if style.chain_of_density:
            step = {
                "type": "object",
                "properties": {"missing": {"type": "string"}, "summary": {"type": "string"}},
                "required": ["missing", "summary"],
                "additionalProperties": False,
            }
            steps = {"type": "array", "items": step, "minItems": STEPS, "maxItems": STEPS}
            return {
                "type": "object",
                "properties": {"steps": steps},
                "required": ["steps"],
                "additionalProperties": False,
            }
        return super().schema(style) if style.chain_of_thought else None

    def parse(self, text: str, row: Row, style: Style) -> Answer:
        """The last and densest summary; the ones before it are the rationale."""
        if not style.chain_of_density:
            return super().parse(text, row, style)
        steps = json_object(text).get("steps")
        if not isinstance(steps, list) or not steps:
            raise Unusable("no list of steps in the answer")
        summaries = [step.get("summary") if isinstance(step, dict) else None for step in steps]
        if not all(isinstance(summary, str) for summary in summaries):
            raise Unusable("a step without a summary")
        *drafts, last = map(str, summaries)
        return Answer(value=not_empty(last), rationale="\n".join(drafts) or None)

    def verify(self, answer: Answer, row: Row) -> str | None:
        """A summary is shorter than what it sums up."""
        longer = len(answer.value) >= len(str(row["text"])) > 0
        return "the summary is not shorter than the text" if longer else None

    def score(self, answer: str, reference: str) -> float:
        """ROUGE-L, F measure (Lin, 2004)."""
        return rouge(answer, reference)["rougeL"]

    def references(self, row: Row) -> tuple[str, ...]:
        """Every human summary, or the one that the row has."""
        return tuple(row["references"]) if row.get("references") else super().references(row)

    def measures(self, answer: str, reference: str) -> dict[str, float]:
        """ROUGE-1, ROUGE-2, ROUGE-L and chrF."""
        return {**rouge(answer, reference), "chrf": chrf(answer, reference)}
