"""One edit: offer the labels whose train sentences share most words with the item."""

from collections.abc import Mapping

from tasks.contract import Evidence

STEP = '''"""Labels by shared words with train sentences."""


def before(item, data, offers):
    """The four labels with most words in common."""
    words = set(item.prompt.split())
    votes = dict.fromkeys(data.labels, 0.0)
    for example in data.train:
        votes[example.label] += len(words & set(example.prompt.split())) ** 2
    best = sorted(votes, key=votes.get, reverse=True)[:4]
    return {label: votes[label] / 40 for label in best}
'''


class SharedWords:
    """Add the step."""

    name = "shared_words"
    summary = "Offer the labels whose train sentences share most words."

    def apply(self, files: Mapping[str, str]) -> dict[str, str]:
        """The folder with the step."""
        agent = files["agent.py"].replace("STEPS: tuple[str, ...] = ()", 'STEPS: tuple[str, ...] = ("shared_words",)')
        return {**files, "agent.py": agent, "steps/__init__.py": '"""Steps."""\n', "steps/shared_words.py": STEP}

    def applies(self, evidence: Evidence) -> str | None:
        """Where the model guesses among all labels."""
        if evidence.offered < evidence.labels:
            return None
        return f"All {evidence.labels} labels are on offer and pass@1 is {evidence.pass_at_1:.2f}."


EDITS = (SharedWords(),)
