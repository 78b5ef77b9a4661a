"""The filter, run here instruction by instruction, for both machines whatever this one is."""

import struct

import pytest

from events.errors import Misconfigured
from runtime.sandbox import seccomp

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
NUMBERS = {
    "x86_64": {"read": 0, "mount": 165, "getpid": 39, "ptrace": 101},
    "aarch64": {"read": 63, "mount": 40, "getpid": 172, "ptrace": 117},
}


def verdict(code: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What the kernel would do with a call: an interpreter of the part of classic BPF that the filter uses."""
    data = struct.pack("<iIQ6Q", number, architecture, 0, *(list(arguments) + [0] * 6)[:6])
    program: list[tuple[int, int, int, int]] = list(struct.iter_unpack("=HBBI", code))
    at, held = 0, 0
    while True:
        operation, if_true, if_false, value = program[at]
        match operation:
            case 0x20:
                (held,) = struct.unpack_from("<I", data, value)
                step = 0
            case 0x54:
                held &= value
                step = 0
            case 0x15 | 0x25 | 0x35 | 0x45:
                holds = {0x15: held == value, 0x25: held > value, 0x35: held >= value, 0x45: bool(held & value)}[
                    operation
                ]
                step = if_true if holds else if_false
            case 0x06:
                return value
            case _:
                raise AssertionError(f"instruction {operation:#x}")
        at += 1 + step


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_calls_are_allowed_or_denied(machine: str) -> None:
    code, (architecture, column) = seccomp.program(machine), seccomp.ARCHITECTURES[machine]
    numbers = NUMBERS[machine]

    def call(number: int, *arguments: int) -> int:
        return verdict(code, architecture, number, *arguments)

    assert len(code) // 8 < 4096  # BPF_MAXINSNS
    assert {call(numbers[name]) for name in ("read", "getpid")} == {ALLOW}
    assert {call(numbers[name]) for name in ("mount", "ptrace")} == {EPERM}
    for number in range(-1, 500):
        if number not in seccomp.numbers(machine).values() and number not in {
            row[column] for row in (seccomp.CLONE, seccomp.IOCTL)
        }:
            assert call(number, 99) in (EPERM, ENOSYS), number
    assert all(call(number) == ALLOW for number in seccomp.numbers(machine).values())
    assert call(seccomp.CLONE3[column]) == ENOSYS
    assert call(seccomp.CLONE[column], 0x01200011) == ALLOW  # fork
    assert call(seccomp.CLONE[column], 0x003D0F00) == ALLOW  # a thread
    for bit in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert call(seccomp.CLONE[column], bit | 17) == EPERM
    assert call(seccomp.IOCTL[column], 0, 0x5401) == ALLOW and call(seccomp.IOCTL[column], 0, 0x5412) == EPERM
    for flags, expected in ((0x22, ALLOW), (0x1, ALLOW), (0x21, EPERM), (0x23, EPERM), (0x40022, EPERM)):
        assert call(seccomp.MMAP[column], 0, 4096, 3, flags) == expected
    visible = seccomp.program(machine, hiding=False)
    assert [verdict(visible, architecture, seccomp.PRCTL[column], option) for option in (4, 15)] == [EPERM, ALLOW]
    assert verdict(code, 0x40000003, numbers["read"]) == KILL  # the 32-bit table


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((1, 1, 0), ALLOW),
        ((2, 1 | 0x80000, 6), ALLOW),
        ((10, 2 | 0x800, 17), ALLOW),
        ((2, 3, 1), EPERM),  # raw
        ((2, 1, 132), EPERM),  # SCTP
        ((16, 3, 0), EPERM),  # netlink
        ((17, 3, 0), EPERM),  # packet
        ((38, 5, 0), EPERM),  # the kernel's cryptography
        ((40, 1, 0), EPERM),  # vsock
    ],
)
def test_sockets_are_judged_by_family_type_and_protocol(arguments: tuple[int, ...], expected: int) -> None:
    for machine, (architecture, column) in seccomp.ARCHITECTURES.items():
        only = seccomp.program(machine, (seccomp.UNIX,))
        for number in ((41, 53), (198, 199))[column]:  # socket, socketpair
            assert verdict(seccomp.program(machine), architecture, number, *arguments) == expected
            assert (
                verdict(only, architecture, number, 2, 1, 6) == EPERM
                and verdict(only, architecture, number, 1, 1, 0) == ALLOW
            )


def test_another_machine_is_refused_in_words() -> None:
    with pytest.raises(Misconfigured, match=r"riscv64; scaffolds can be confined on x86_64 and aarch64 only"):
        seccomp.program("riscv64")
