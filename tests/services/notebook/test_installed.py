"""`import evolog` in environments of its own: of a wheel, and of an editable install. pip fetches the back end."""

import site
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.paths import ROOT

pytestmark = pytest.mark.long


@pytest.mark.parametrize(("flags", "where"), [((), "site-packages"), (("--editable",), "services/notebook")])
def test_evolog_is_imported_where_it_is_installed(flags: tuple[str, ...], where: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    (packages,) = (tmp_path / "venv/lib").glob("python3*/site-packages")
    # what evolog needs is where the tests have it, and evolog itself is not: a .pth file there is not followed
    (packages / "zz_needed.pth").write_text("\n".join(site.getsitepackages()))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, *flags, str(ROOT)], check=True)
    code = "import evolog; print(evolog.__file__)"
    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, env={})
    assert f"{where}/evolog/__init__.py" in done.stdout
