"""What the system tells of the CPU, on x86 and on ARM."""

from pathlib import Path

import pytest

from q8bert.machine import cpu

X86 = """processor : 0
model name : A CPU
flags : fpu avx2 avx512f avx512_vnni
cpu MHz : 2100.000

processor : 1
model name : A CPU
flags : fpu avx2 avx512f avx512_vnni
cpu MHz : 3300.000
"""
ARM = "processor : 0\nFeatures : fp asimd asimddp i8mm\nCPU part : 0xd40\nBogoMIPS : 2100.00\n"


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(cpu, "Path", lambda _: path)
    return path


def test_instructions_are_known_by_their_flags(told: Path) -> None:
    told.write_text(X86)
    assert cpu.cpu_features() == ("avx2", "avx512f", "avx512_vnni")
    told.write_text(ARM)
    assert cpu.cpu_features() == ("asimddp", "i8mm")


@pytest.mark.parametrize(
    ("flags", "computes"),
    [
        ("flags : avx512f avx512_bf16", True),
        ("flags : avx2 amx_bf16 amx_tile", True),
        ("Features : asimd bf16 i8mm", True),
        ("flags : avx2 avx512f", False),
        ("bugs : bf16", False),
    ],
)
def test_bfloat16_is_known_by_its_flags_too(told: Path, flags: str, computes: bool) -> None:
    told.write_text(f"processor : 0\n{flags}\n")
    assert cpu.computes_bfloat16() is computes


def test_a_description_holds_what_lasts_and_is_alike_on_all_cores(told: Path) -> None:
    told.write_text(X86)
    once = cpu.cpu_description()
    assert once[2:] == ["flags : fpu avx2 avx512f avx512_vnni", "model name : A CPU"]
    told.write_text(X86.replace("3300.000", "1200.000"))
    assert cpu.cpu_description() == once
    told.write_text(X86.replace("avx512_vnni", "amx_int8"))
    assert cpu.cpu_description() != once


def test_a_system_that_does_not_tell_is_no_error(told: Path) -> None:
    assert cpu.cpu_features() == ()
    assert len(cpu.cpu_description()) == 2
