"""What `../shared/gpu/pack.py --sweep` packed, made small enough to travel all together.

    .venv/bin/python benchmarks/gpu/carry.py    # here, after pack.py: .gpu/ holds all of it, about 50 MiB
    . .gpu/unpack.sh                            # there

Libraries lose their symbols, and programs are compressed as such; the encoder, which comes from a copy of four bits a
weight, is written with those four bits again. What is unpacked has every byte of its weights: its SHA-256 is compared.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import lzma
import shutil
import struct
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

PACKED, PACKED_MODEL = Path(".gpu"), Path(".gpu-model/model.tar.xz")
MODEL = Path("shared/models/e5-kobert")
WEIGHTS, CODED = "model.safetensors", "e5-kobert.xz"
BLOCK = 32
"""Weights that share a scale."""
DICTIONARY = 128 * 2**20
UNPACK = """\
mkdir -p /tmp/gpu
for packed in .gpu/*.tar.xz; do tar -xJf "$packed" -C /tmp/gpu & done
wait
export PYTHONPATH=/tmp/gpu/site:$PWD PYTHONUNBUFFERED=1
ln -sfn /tmp/gpu/shared ../shared
python3 benchmarks/gpu/carry.py --unpack /tmp/gpu &
python3 -m compileall -q -j 0 /tmp/gpu/site kobert_core tuning search_spaces > /tmp/gpu/compileall.txt 2>&1
wait
"""
"""Without compiled modules every process of Ray would compile what it imports."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unpack", type=Path, metavar="DIR", help="write the encoder below DIR, and no more")
    given = parser.parse_args()
    if given.unpack:
        unpack_model(given.unpack)
        return
    if (PACKED / "site.tar.xz").is_file():
        repack_site(PACKED / "site.tar.xz")
    if PACKED_MODEL.is_file():
        pack_model()
    (PACKED / "unpack.sh").write_text(UNPACK, encoding="utf-8")
    for file in sorted(PACKED.iterdir()):
        print(f"{file.stat().st_size / 2**20:7.1f} MiB  {file.name}")
    print(f"{sum(file.stat().st_size for file in PACKED.iterdir()) / 2**20:7.1f} MiB  in {PACKED}, which alone travels")


def repack_site(packed: Path) -> None:
    """The packages in two archives, programs and all else, and without what nothing here needs."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(packed) as tar:
            tar.extractall(folder, filter="tar")
        site = Path(folder, "site")
        for unused in [*site.glob("virtualenv/seed/wheels/embed/*.whl"), *site.rglob("*.cdx.json")]:
            unused.unlink()
        files = sorted(path for path in site.rglob("*") if path.is_file())
        programs = [path for path in files if is_program(path)]
        for path in programs if shutil.which("strip") else ():
            subprocess.run(["strip", "--strip-unneeded", str(path)], check=False, stderr=subprocess.DEVNULL)
        rest = sorted(set(files) - set(programs))
        archive(PACKED / "site-programs.tar.xz", programs, site.parent, [{"id": lzma.FILTER_X86}])
        archive(PACKED / "site-rest.tar.xz", rest, site.parent, [])
    packed.unlink()


def is_program(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def archive(target: Path, files: list[Path], root: Path, before: list[dict[str, Any]]) -> None:
    filters = [*before, {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": DICTIONARY}]
    with lzma.open(target, "wb", filters=filters) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        for path in files:
            tar.add(path, str(path.relative_to(root)))


def pack_model() -> None:
    """The encoder's small files as they are, its weights in codes."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(PACKED_MODEL) as tar:
            tar.extractall(folder, filter="tar")
        model = Path(folder, MODEL)
        raw = (model / WEIGHTS).read_bytes()
        coded = encoded(raw)
        assert decoded(coded) == raw
        (PACKED / CODED).write_bytes(coded)
        others = sorted(path for path in model.iterdir() if path.name != WEIGHTS)
        archive(PACKED / "e5-kobert.tar.xz", others, Path(folder), [])


def unpack_model(root: Path) -> None:
    """Write the weights beside the encoder's other files; nothing where none were carried."""
    if (PACKED / CODED).is_file():
        (root / MODEL / WEIGHTS).write_bytes(decoded((PACKED / CODED).read_bytes()))


def encoded(raw: bytes) -> bytes:
    """A safetensors file of float16, compressed."""
    head, body = parts_of(raw)
    scales, codes, others = [], [], []
    coded = []
    for name, (begin, end) in spans(head):
        found = in_four_bits(body[begin:end]) if (end - begin) % BLOCK == 0 else None
        if found is None:
            others.append(body[begin:end])
        else:
            coded.append(name)
            scales.append(found[0])
            codes.append(found[1])
    code = np.concatenate(codes).reshape(-1, 2) if codes else np.zeros((0, 2), np.uint8)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        head=np.frombuffer(head, np.uint8),
        coded=np.array(coded),
        codes=code[:, 0] | code[:, 1] << 4,
        scales=planes(np.concatenate(scales) if scales else body[:0]),
        others=planes(np.concatenate(others) if others else body[:0]),
        digest=np.array(hashlib.sha256(raw).hexdigest()),
    )
    return lzma.compress(buffer.getvalue(), preset=6)


def decoded(packed: bytes) -> bytes:
    """The file that was encoded.

    Raises:
        ValueError: its SHA-256 is another one.
    """
    content = np.load(io.BytesIO(lzma.decompress(packed)))
    head, coded = content["head"].tobytes(), set(content["coded"].tolist())
    code = np.stack([content["codes"] & 15, content["codes"] >> 4], axis=1).reshape(-1, BLOCK)
    scales, others = from_planes(content["scales"]), from_planes(content["others"])
    weights = products(code.astype(np.int8) - 8, scales).reshape(-1)
    body, taken, passed = [], 0, 0
    for name, (begin, end) in spans(head):
        if name in coded:
            body.append(weights[taken : taken + end - begin])
            taken += end - begin
        else:
            body.append(others[passed : passed + end - begin])
            passed += end - begin
    raw = struct.pack("<Q", len(head)) + head + b"".join(part.tobytes() for part in body)
    if hashlib.sha256(raw).hexdigest() != str(content["digest"]):
        raise ValueError("the weights are not what was packed")
    return raw


def parts_of(raw: bytes) -> tuple[bytes, np.ndarray]:
    """Header and numbers of a safetensors file."""
    (size,) = struct.unpack("<Q", raw[:8])
    return raw[8 : 8 + size], np.frombuffer(raw, "<f2", offset=8 + size)


def spans(head: bytes) -> list[tuple[str, tuple[int, int]]]:
    """Names of the tensors and where their numbers lie, in the order of the file."""
    tensors = {name: entry["data_offsets"] for name, entry in json.loads(head).items() if name != "__metadata__"}
    return [(name, (begin // 2, end // 2)) for name, (begin, end) in sorted(tensors.items(), key=lambda each: each[1])]


def in_four_bits(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The scale of each block and the code of each number, from which all bits of them follow; None without such."""
    blocks = numbers.reshape(-1, BLOCK)
    most = np.abs(blocks.astype(np.float32)).max(1)
    signed = np.where(blocks.max(1).astype(np.float32) == most, -1, 1)
    scales, codes = np.zeros(len(blocks), np.float16), np.zeros(blocks.shape, np.int8)
    left = np.ones(len(blocks), bool)
    for sign in (signed, -signed):
        for steps in range(8, 0, -1):
            near = (most / steps).astype(np.float16)
            for beside in (0, -1, 1, -2, 2):
                tried = (near.view(np.int16) + beside).astype(np.int16).view(np.float16) * sign.astype(np.float16)
                with np.errstate(all="ignore"):
                    code = np.rint(np.nan_to_num(blocks.astype(np.float32) / tried.astype(np.float32)[:, None]))
                    code = code.clip(-8, 7).astype(np.int8)
                    same = (products(code, tried).view(np.int16) == blocks.view(np.int16)).all(1) & left
                scales[same], codes[same] = tried[same], code[same]
                left &= ~same
                if not left.any():
                    return scales, (codes + 8).astype(np.uint8).reshape(-1)
    return None


def products(code: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Blocks of float16."""
    product: np.ndarray = (code.astype(np.float32) * scales.astype(np.float32)[:, None]).astype(np.float16)
    return product


def planes(numbers: np.ndarray) -> np.ndarray:
    """The high bytes and then the low ones, which compresses better."""
    return np.ascontiguousarray(numbers.astype("<f2").view(np.uint8).reshape(-1, 2)[:, ::-1].T).reshape(-1)


def from_planes(split: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(split.reshape(2, -1).T[:, ::-1]).reshape(-1).view("<f2")


if __name__ == "__main__":
    main()
