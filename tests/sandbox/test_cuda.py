"""The command line of the profile `cuda`, on a host without a GPU: device files that are links to /dev/null."""

from pathlib import Path

import pytest

from events.errors import HostUnfit
from runtime.sandbox import bwrap
from runtime.sandbox.cuda import cuda_devices
from runtime.sandbox.limits import ResourceLimits, rlimits


def dev(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to("/dev/null")
    (folder / "nvidia-notes").write_text("a file that is no device")
    return folder


def test_the_device_files_of_the_driver_are_found_and_no_others(tmp_path: Path) -> None:
    folder = dev(tmp_path, "nvidia0", "nvidiactl", "nvidia-uvm", "nvidia-caps/nvidia-cap1", "sda", "kvm")
    found = {Path(device).relative_to(folder).as_posix() for device in cuda_devices("bwrap", folder)}
    assert found == {"nvidia0", "nvidiactl", "nvidia-uvm", "nvidia-caps/nvidia-cap1"}


def test_a_host_without_a_device_is_unfit(tmp_path: Path) -> None:
    with pytest.raises(HostUnfit, match="nvidia0"):
        cuda_devices("bwrap", dev(tmp_path, "nvidiactl"))
    with pytest.raises(HostUnfit, match="Landlock"):
        cuda_devices("landlock", dev(tmp_path, "nvidia0"))


def test_the_profile_shows_the_devices_and_nothing_more(tmp_path: Path) -> None:
    devices = ("/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap1")
    usual = bwrap.options({}, {}, ResourceLimits())
    with_devices = bwrap.options({}, {}, ResourceLimits(), devices)
    added = [
        "--dev-bind",
        *devices[:1] * 2,
        "--perms",
        "0755",
        "--dir",
        "/dev/nvidia-caps",
        "--dev-bind",
        *devices[1:] * 2,
    ]
    at = with_devices.index("--dev-bind", with_devices.index("/dev/urandom"))
    assert with_devices[at : at + len(added)] == added
    assert with_devices[:at] + with_devices[at + len(added) :] == usual


def test_only_the_address_space_is_without_a_limit() -> None:
    usual, free = (rlimits(ResourceLimits(memory=1000, address_space=limited), True) for limited in (True, False))
    assert [word for word in usual if word not in free] == ["--as=1000:1000"]
