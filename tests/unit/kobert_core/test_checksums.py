"""Files that tell whether they are what was written."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kobert_core.errors import InputError
from kobert_core.io.checksums import check_sums, sealed, sealed_line, unsealed, unsealed_line, write_sums


def test_a_sealed_object_is_read_back_and_noticed_when_changed() -> None:
    content = {"trial": 0, "value": 0.1, "metrics": {"좋다": float("inf")}, "reason": None}
    assert unsealed(sealed(content), where="here") == content
    assert unsealed(content, where="here") == content, "an object without a seal is taken as it is"
    with pytest.raises(InputError, match=r"here: .* its SHA-256 is not the one written"):
        unsealed(sealed(content) | {"value": 0.2}, where="here")
    with pytest.raises(InputError, match="must be an object"):
        unsealed([content], where="here")


def test_a_sealed_line_is_read_back_and_noticed_when_a_bit_flips() -> None:
    record = {"kind": "metrics", "text": '줄,"crc32":"00000000"}', "value": 1e-5}
    line = sealed_line(record)
    assert line.count(b"\n") == 1 and unsealed_line(line) == record
    with pytest.raises(ValueError, match="CRC-32"):
        unsealed_line(b'{"a": 1}')
    for place in range(len(line) - 1):
        for bit in range(8):
            damaged = bytearray(line)
            damaged[place] ^= 1 << bit
            with pytest.raises(ValueError):
                unsealed_line(bytes(damaged))


def test_sums_are_those_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    write_sums(tmp_path)
    check_sums(tmp_path)
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=True)
    (tmp_path / "c.txt").write_text("what comes later is not covered")
    check_sums(tmp_path)
    (tmp_path / "b.txt").write_text("bb")
    with pytest.raises(InputError, match=r"b\.txt: the file is damaged"):
        check_sums(tmp_path)
    (tmp_path / "b.txt").unlink()
    with pytest.raises(InputError, match=r"b\.txt: the file cannot be read"):
        check_sums(tmp_path)
