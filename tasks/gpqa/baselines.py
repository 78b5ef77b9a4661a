"""What needs no agent and no knowledge: one letter for all, the longest option, the option nearest to the question."""

from collections import Counter
from collections.abc import Callable, Sequence

from tasks.contract import Item, Public
from tasks.gpqa.data import LETTERS, parts


def first(public: Public, items: Sequence[Item]) -> dict[str, str]:
    """The first option."""
    return dict.fromkeys((item.id for item in items), LETTERS[0])


def commonest(public: Public, items: Sequence[Item]) -> dict[str, str]:
    """The letter that is right most often in train."""
    ((letter, _),) = Counter(str(example.label) for example in public.train).most_common(1)
    return dict.fromkeys((item.id for item in items), letter)


def longest(public: Public, items: Sequence[Item]) -> dict[str, str]:
    """The longest option, the first of several."""
    return {item.id: _best(item, lambda question, options: [len(option) for option in options]) for item in items}


def nearest(public: Public, items: Sequence[Item]) -> dict[str, str]:
    """The option that is nearest to the question by the tf-idf cosine of character bigrams (scikit-learn)."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 2), sublinear_tf=True)
    vectorizer.fit([example.prompt for example in public.train])

    def cosines(question: str, options: Sequence[str]) -> list[float]:
        found: list[float] = (vectorizer.transform(options) @ vectorizer.transform([question]).T).toarray().ravel()
        return list(found)

    return {item.id: _best(item, cosines) for item in items}


def _best(item: Item, value: Callable[[str, Sequence[str]], Sequence[float]]) -> str:
    found = parts(item.prompt)
    values = value(*found) if found else [0.0]
    return LETTERS[max(range(len(values)), key=lambda index: values[index])]


BASELINES = {
    "the first option": first,
    "the commonest letter of train": commonest,
    "the longest option": longest,
    "the option nearest to the question": nearest,
}
