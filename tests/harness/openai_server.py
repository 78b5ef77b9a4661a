"""The server of the OpenAI API that programs in a sandbox call, with a policy that anyone can follow by hand."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.policies.interface import Sampled
from runtime.rollouts.openai.dialect import BridgeAnswer, BridgeCall, hashed_ngrams
from runtime.rollouts.openai.server import AnswerCall, Bridge, CallBudget, OccurrenceKey

TOKEN = "a-token-of-one-attempt"


class BackwardsPolicy:
    """Says the prompt backwards, one token a character, and keeps a record in the order of the calls."""

    def __init__(self) -> None:
        self.calls: list[BridgeCall] = []
        self.record: dict[OccurrenceKey, BridgeAnswer] = {}
        self.before: Callable[[BridgeCall], None] = lambda call: None

    def __call__(self, call: BridgeCall) -> BridgeAnswer:
        self.before(call)
        if call.kind == "embedding":
            vectors = tuple(hashed_ngrams(text, call.dimensions) for text in call.prompts)
            answer = BridgeAnswer(vectors=vectors, prompt_tokens=sum(map(len, call.prompts)))
        else:
            answer = BridgeAnswer(samples=tuple(self.sample(prompt, call) for prompt in call.prompts), micro_usd=7)
        self.calls.append(call)
        self.record[OccurrenceKey(call.key, call.occurrence)] = answer
        return answer

    def sample(self, prompt: str, call: BridgeCall) -> Sampled:
        """The first choice, or the prompt backwards; from the second call on it ends in the number of calls."""
        said = call.choices[0] if call.choices else prompt[::-1][: call.max_tokens]
        text = said if len(self.calls) == 0 else f"{said[: call.max_tokens - 1]}{len(self.calls) % 10}"
        tokens = tuple(map(ord, text))
        return Sampled((text,) * call.n, (tokens,) * call.n, ((-0.5,) * len(tokens),) * call.n, len(prompt))


@contextmanager
def serving(folder: Path, answer: AnswerCall, budget: CallBudget | None = None) -> Iterator[Bridge]:
    """A server of the OpenAI API on a socket in the folder."""
    with Bridge(folder / "b.sock", answer, token=TOKEN, models=["policy", "openai/gpt-oss-120b"], budget=budget) as made:
        yield made
