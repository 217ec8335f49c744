"""The seccomp filter, instruction by instruction, for both architectures, against the kernel's headers where they are installed."""

import os
import re
import struct
import sys
from pathlib import Path

import pytest

isolation = (
    pytest.importorskip("openglm.sandbox.isolation")
    if sys.platform == "linux"
    else pytest.skip(allow_module_level=True)
)

ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x50001, 0x50026, 0x80000000
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
LAST_OLD = {"x86_64": "rseq", "aarch64": "kexec_file_load"}  # of Linux 5.0


def decide(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What the kernel would do: classic BPF on struct seccomp_data."""
    data = struct.pack("<iIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    code = [struct.unpack_from("HBBI", program, offset) for offset in range(0, len(program), 8)]
    at = accumulator = 0
    while True:
        operation, true, false, value = code[at]
        at += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x06:
            return value
        else:
            taken = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[operation]
            at += true if taken else false


@pytest.fixture(params=MACHINES)
def machine(request, monkeypatch):
    monkeypatch.setattr(isolation, "_MACHINE", request.param)
    return request.param


@pytest.mark.parametrize("inside", [True, False])
def test_each_call_is_decided_as_the_tables_say(machine, inside):
    program, architecture = isolation.filter_program(inside), MACHINES[machine]
    denied = set(isolation.numbers(isolation.DENIED)) | set(
        () if inside else isolation.numbers(isolation.DENIED_OUTSIDE)
    )
    column = list(MACHINES).index(machine)
    conditional = {numbers[column]: 1 if name == "socketpair" else 0 for name, numbers, *_ in isolation.CONDITIONS}
    if not inside:
        conditional |= {numbers[column]: os.getpid() for _, numbers in isolation.SIGNALS}
    first_new = {"x86_64": 334, "aarch64": 294}[machine] + 1
    for number in range(first_new):
        expected = EPERM if number in denied else ALLOW
        assert decide(program, architecture, number, conditional.get(number, 0)) == expected, number
    new = {436, 437, 439, 441, 449} | ({452} if inside else set())
    assert {n for n in range(first_new, 1000) if decide(program, architecture, n) == ALLOW} == new
    assert {decide(program, architecture, n) for n in range(first_new, 1000)} == {ALLOW, ENOSYS}


def test_calls_in_other_tongues_kill(machine):
    program = isolation.filter_program(True)
    assert decide(program, 0x40000003, 4) == KILL  # i386 by int 0x80
    if machine == "x86_64":
        assert decide(program, MACHINES[machine], 0x40000000 | 39) == KILL  # x32


def test_conditions_look_at_the_argument(machine):
    program, architecture = isolation.filter_program(True), MACHINES[machine]
    column = list(MACHINES).index(machine)

    def verdict(numbers, *arguments):
        return decide(program, architecture, numbers[column], *arguments)

    clone, socketpair, prlimit = (numbers for _, numbers, *_ in isolation.CONDITIONS)
    assert verdict(clone, 0x3D0F00) == ALLOW  # a thread, as glibc makes them
    assert {verdict(clone, 1 << bit) for bit in (17, 25, 26, 27, 28, 29, 30)} == {EPERM}
    assert (verdict(socketpair, 1), verdict(socketpair, 2)) == (ALLOW, EPERM)
    assert (verdict(prlimit, 0), verdict(prlimit, 4711), verdict(prlimit, 1)) == (ALLOW, EPERM, EPERM)
    ioctl, fcntl = (numbers for _, numbers, _ in isolation.REQUESTS)
    assert (verdict(ioctl, 1, 0x5401), verdict(fcntl, 1, 1)) == (ALLOW, ALLOW)
    assert {verdict(ioctl, 0, request) for request in (0x5412, 0x541C, 0x8901, 0x8902)} == {EPERM}
    assert {verdict(fcntl, 0, command) for command in (8, 15)} == {EPERM}
    assert verdict(ioctl, 0, (7 << 32) | 0x5412) == EPERM  # the kernel drops the upper half


def test_without_namespaces_signals_reach_the_process_itself_alone(machine):
    program, architecture = isolation.filter_program(False), MACHINES[machine]
    for _, numbers in isolation.SIGNALS:
        number = numbers[list(MACHINES).index(machine)]
        assert decide(program, architecture, number, os.getpid(), 6) == ALLOW
        assert {decide(program, architecture, number, who, 9) for who in (0, 1, os.getppid(), 2**64 - 1)} == {EPERM}


def test_numbers_are_the_headers(machine):
    if not HEADERS[machine].exists():
        pytest.skip("the kernel's headers are not installed")
    text = HEADERS[machine].read_text()
    known = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    assert known[LAST_OLD[machine]] + 1 == isolation._ARCHITECTURES[machine][2]
    column = list(MACHINES).index(machine)
    rows = re.findall(r"(\w+) (\d+|-) (\d+|-)", isolation.DENIED + isolation.DENIED_OUTSIDE)
    assert len(rows) > 100
    for name, *numbers in rows:
        assert str(known.get(name, "-")) == numbers[column], name
    for name, numbers, *_ in (*isolation.CONDITIONS, *isolation.SIGNALS, *isolation.REQUESTS):
        assert known[name] == numbers[column]
