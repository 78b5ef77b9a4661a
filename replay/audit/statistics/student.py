"""Student's t distribution, as SciPy computes it; that is imported when it is first needed, since it takes a quarter of
a second, which an audit that is kept does not need.
"""


def below(freedom: float, value: float) -> float:
    """The probability of a value as low as this one, with so many degrees of freedom, which may be infinite."""
    from scipy.special import stdtr

    return float(stdtr(freedom, value))


def quantile(freedom: float, probability: float) -> float:
    """The value below which one lies with this probability."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))
