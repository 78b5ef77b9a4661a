"""What a file of tests needs and does not import: each of pytest-xdist's workers imports every file, and what takes
seconds to import only the one that runs it should.
"""

from importlib.util import find_spec

import pytest


def needs(*modules: str) -> pytest.MarkDecorator:
    """A mark that skips tests where one of these is not installed."""
    missing = [module for module in modules if find_spec(module) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")
