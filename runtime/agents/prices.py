"""What calls of language models cost: the table `prices.toml` beside this file, and over it the one that EVOLOG_PRICES
names.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from events.errors import Misconfigured
from runtime.agents.conversation import Usage

TABLE = Path(__file__).with_name("prices.toml")
SETTING = "EVOLOG_PRICES"
_DATED = re.compile(r"-?(\d{8}|\d{4}-\d{2}-\d{2}|latest)\Z")


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """US dollars per million tokens, which is millionths of a dollar per token.

    What is not said of the cache is as `input`.
    """

    input: float
    output: float
    cached: float | None = None
    written: float | None = None

    def micro_usd(self, usage: Usage | None) -> int | None:
        """What these tokens cost, in millionths of a dollar; None where it is not known how many they are, unless they
        are free.
        """
        if usage is None:
            return None if any(_values(self)) else 0
        cached, written = (self.input if price is None else price for price in (self.cached, self.written))
        fresh = usage.prompt - usage.cached - usage.written
        return round(
            self.input * fresh + cached * usage.cached + written * usage.written + self.output * usage.completion
        )


Prices = Mapping[str, Mapping[str, Price]]
FREE = Price(0, 0)


def load_prices(environment: Mapping[str, str]) -> Prices:
    """The prices by provider and model, the environment's own table first; raises `Misconfigured` for one that cannot
    be used.
    """
    prices: dict[str, dict[str, Price]] = {}
    for path in [TABLE, *([Path(own)] if (own := environment.get(SETTING)) else [])]:
        for provider, models in _read(path).items():
            prices.setdefault(provider, {}).update(models)
    return prices


def find_price(known: Prices, provider: str, model: str) -> Price | None:
    """The price of a model, or of the one that it is a dated copy of; None where there is none."""
    models = known.get(provider, {})
    return models.get(model) or models.get(_DATED.sub("", model))


def _read(path: Path) -> dict[str, dict[str, Price]]:
    example = '[openai."gpt-5"] with `input = 1.25` and `output = 10`'
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        table.pop("as_of", None)
        prices = msgspec.convert(table, dict[str, dict[str, Price]])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as wrong:
        raise Misconfigured(
            f"The price table {path} cannot be used ({wrong}); expected sections such as {example}."
        ) from wrong
    if any(not 0 <= value < 1e6 for models in prices.values() for price in models.values() for value in _values(price)):
        raise Misconfigured(
            f"The price table {path} holds a price that is none; expected US dollars per million tokens, 0 or more."
        )
    return prices


def _values(price: Price) -> list[float]:
    return [value for value in (price.input, price.output, price.cached, price.written) if value is not None]
