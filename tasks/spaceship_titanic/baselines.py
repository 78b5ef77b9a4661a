"""What needs no agent: one answer for all, those who slept, and gradient boosting on the records."""

from collections import Counter
from collections.abc import Sequence

from tasks.contract import Item, Public

from .steps import records


def commonest(public: Public, items: Sequence[Item]) -> dict[str, str]:
    """The answer that most train passengers have."""
    ((label, _),) = Counter(str(example.label) for example in public.train).most_common(1)
    return dict.fromkeys((item.id for item in items), label)


def asleep(public: Public, items: Sequence[Item]) -> dict[str, str]:
    """True for those who slept through the voyage."""
    return {item.id: str(records.fields(item.prompt)["CryoSleep"] == "True") for item in items}


def boosting(public: Public, items: Sequence[Item]) -> dict[str, str]:
    """HistGradientBoostingClassifier of scikit-learn as it comes, fitted on train; it takes some seconds."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # on few and busy cores, its threads wait for each other
        model = HistGradientBoostingClassifier(random_state=0)
        model.fit(records.matrix([example.prompt for example in public.train]), [e.label for e in public.train])
        predicted = model.predict(records.matrix([item.prompt for item in items]))
    return {item.id: str(label) for item, label in zip(items, predicted, strict=True)}


BASELINES = {"the commonest answer of train": commonest, "asleep": asleep, "gradient boosting": boosting}
