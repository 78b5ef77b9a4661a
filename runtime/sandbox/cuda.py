"""The profile `cuda`: bubblewrap's, with the device files of NVIDIA's driver. Nothing else of the host is added.

The driver's libraries, torch and Triton are visible in every profile, among the system's and the interpreter's
libraries. A process's address space is not limited, as CUDA reserves more of it than there is memory. It was never run
on a host that has a GPU: what is tested is the command line that it makes.
"""

import os
import stat
from pathlib import Path

from events.errors import HostUnfit
from runtime.sandbox.launch import Kind

FOLDER = Path("/dev")
PREFIX = "nvidia"


def cuda_devices(kind: Kind, folder: Path = FOLDER) -> tuple[str, ...]:
    """The device files of NVIDIA's driver: nvidia0 and so on, nvidiactl, nvidia-uvm, and those in nvidia-caps.

    Raises HostUnfit where there is no device, or the profile cannot show one.
    """
    if kind == "landlock":
        raise HostUnfit(
            "A program that needs CUDA is confined by bubblewrap alone, and this host gives Landlock: install "
            "bubblewrap, or choose a verifier that needs no GPU."
        )
    found = [path for path in sorted(folder.iterdir()) if path.name.startswith(PREFIX)]
    found += [inner for path in found if path.is_dir() for inner in sorted(path.iterdir())]
    devices = tuple(str(path) for path in found if _is_device(path))
    if not any(Path(device).name.removeprefix(PREFIX).isdigit() for device in devices):
        raise HostUnfit(
            f"A program needs CUDA, and this host has no {folder / PREFIX}0: run it on a host with an NVIDIA GPU, or "
            "choose a verifier that needs none."
        )
    return devices


def _is_device(path: Path) -> bool:
    return stat.S_ISCHR(os.stat(path).st_mode)
