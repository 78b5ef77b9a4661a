"""What needs no agent: the commonest class, and a classifier of character n-grams that is fitted to train."""

from collections import Counter
from collections.abc import Sequence

from tasks.contract import Item, Public


def commonest(public: Public, items: Sequence[Item]) -> dict[str, str]:
    """The class that most train words have."""
    ((label, _),) = Counter(str(example.label) for example in public.train).most_common(1)
    return dict.fromkeys((item.id for item in items), label)


def linear_svc(public: Public, items: Sequence[Item]) -> dict[str, str]:
    """The class that a LinearSVC (scikit-learn, C = 1) gives, on tf-idf character n-grams of 1 to 4 letters within the
    word's bounds, fitted on train.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
    model = LinearSVC(random_state=0).fit(
        vectorizer.fit_transform([example.id for example in public.train]), [e.label for e in public.train]
    )
    predicted = model.predict(vectorizer.transform([item.id for item in items]))
    return {item.id: str(label) for item, label in zip(items, predicted, strict=True)}


BASELINES = {"commonest class": commonest, "TF-IDF char(1,4) + LinearSVC": linear_svc}
"""What the auditor scores in addition to a run, by the name that its table shows."""
