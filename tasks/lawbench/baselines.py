"""Two baselines that a run is compared with: label-name overlap, which needs no labels, and character bigrams with a
linear SVC.
"""

from collections.abc import Sequence

import numpy as np

from tasks.contract import Item, Public


def label_names(public: Public, items: Sequence[Item]) -> dict[str, str]:
    """The label by item id whose name is nearest to the prompt by tf-idf cosine.

    Train texts give the idf; train labels are not used.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    names = [label.replace("[", "").replace("]", "") for label in public.labels]
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32)
    vectorizer.fit([e.prompt for e in public.train] + names)
    nearest = (vectorizer.transform([i.prompt for i in items]) @ vectorizer.transform(names).T).toarray().argmax(1)
    return {item.id: public.labels[i] for item, i in zip(items, nearest, strict=True)}


def linear_svc(public: Public, items: Sequence[Item]) -> dict[str, str]:
    """The label by item id that a LinearSVC (scikit-learn, C = 1) gives, on tf-idf character unigrams and bigrams,
    fitted on train.

    It takes about 20 seconds.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32)
    model = LinearSVC(random_state=0).fit(
        vectorizer.fit_transform([e.prompt for e in public.train]), [e.label for e in public.train]
    )
    predicted = model.predict(vectorizer.transform([i.prompt for i in items]))
    return {item.id: str(label) for item, label in zip(items, predicted, strict=True)}


BASELINES = {"label-name overlap": label_names, "TF-IDF char(1,2) + LinearSVC": linear_svc}
"""What the auditor scores in addition to a run, by the name that its table shows."""
