"""The scaffold that a run starts from: put the problem in few words, ask the policy, and hand back what it says.

With FORM, the numbers of what it says are written as the problem's prompt asks for. With VIEWS, the policy is asked
about so many views of each kind too, and the answers are put to a vote once the changes are undone.
"""

import random
from typing import Any

import exercises

FORM = False
VIEWS = 0


def solve(item: Any, model: Any, data: Any) -> str | None:
    """The answer to a problem."""
    problem = exercises.read(item.prompt)
    if not VIEWS:
        text: str = model.complete(exercises.asked(problem)).text
        return form(problem, text)
    from voting import elect

    answers = []
    for view in exercises.views(problem, random.Random(item.prompt), VIEWS):
        numbers = exercises.heard(model.complete(exercises.asked(view.problem)).text)
        answers.append((view.kind, None if numbers is None else exercises.spoken(view.undo(numbers))))
    elected = elect(answers)
    return None if elected is None else form(problem, elected)


def form(problem: Any, text: str) -> str:
    """An answer as it is handed back."""
    numbers = exercises.heard(text) if FORM else None
    return text if numbers is None else exercises.written(problem, numbers)
