"""What each task asks of a teacher, how its answers are read, and what they are judged by; one file a task."""

from __future__ import annotations

from edgedistill.errors import InputError
from edgedistill.tasks.classification import Classification
from edgedistill.tasks.conversation import Conversation
from edgedistill.tasks.math import Math
from edgedistill.tasks.nli import Nli
from edgedistill.tasks.qa import QuestionAnswering
from edgedistill.tasks.summarization import Summarization
from edgedistill.tasks.task import Task

TASKS: dict[str, Task] = {
    task.name: task for task in (Classification(), Nli(), QuestionAnswering(), Math(), Summarization(), Conversation())
}


def find(name: str) -> Task:
    """The task of a name.

    Raises:
        InputError: there is none.
    """
    if name not in TASKS:
        raise InputError(f"there is no task {name!r}", hint=f"one of {', '.join(TASKS)}")
    return TASKS[name]
