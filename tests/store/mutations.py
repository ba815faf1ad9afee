"""Damage the bytes of an HDF5 file, at random but repeatably: what disks do, and what attackers do.

Attackers repair the checksums of what they change, which lets their changes reach the library behind them.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np

Rng = np.random.Generator
PAGE = 512
_EXTREME = (0, 1, 2, 255, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
_SIGNATURES = (
    b"OHDR",
    b"OCHK",
    b"BTHD",
    b"BTLF",
    b"BTIN",
    b"FRHP",
    b"FHDB",
    b"FHIB",
    b"FAHD",
    b"FADB",
    b"FSHD",
)


@dataclass(frozen=True)
class Material:
    """An intact file and what mutations need to know of it.

    Attributes
    ----------
    blocks
        Where metadata with a checksum begin, and where that checksum is.
    chunks
        Offset and length of the chunks of activations.
    other
        The bytes of another sound file.
    """

    content: bytes
    blocks: tuple[tuple[int, int], ...]
    chunks: tuple[tuple[int, int], ...]
    other: bytes

    @classmethod
    def of(cls, path: Path, other: Path) -> "Material":
        content = path.read_bytes()
        return cls(content, checksummed(content), _chunks(path), other.read_bytes())


def lookup3(data: bytes) -> int:
    """Return the checksum of HDF5 metadata: Bob Jenkins' lookup3 (hashlittle), in the public domain."""
    mask = 2**32 - 1

    def rotate(x: int, k: int) -> int:
        return (x << k | x >> (32 - k)) & mask

    a = b = c = (0xDEADBEEF + len(data)) & mask
    words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
    words += [0] * (-len(words) % 3)
    for i in range(0, len(words) - 3, 3):
        a, b, c = (a + words[i]) & mask, (b + words[i + 1]) & mask, (c + words[i + 2]) & mask
        for k in (4, 6, 8, 16, 19, 4):
            a, b, c = ((a - c) & mask) ^ rotate(c, k), b, (c + b) & mask
            a, b, c = b, c, a
    if words:
        a, b, c = (a + words[-3]) & mask, (b + words[-2]) & mask, (c + words[-1]) & mask
        for k in (14, 11, 25, 16, 4, 14, 24):
            c = ((c ^ b) - rotate(b, k)) & mask
            a, b, c = b, c, a
        return b
    return c


def checksummed(content: bytes) -> tuple[tuple[int, int], ...]:
    """Find the metadata blocks of a sound file whose checksum is known to be where it is looked for."""
    marks = sorted(match.start() for match in re.finditer(b"|".join(_SIGNATURES), content))
    found = [(0, 44)]
    for start, following in pairwise([*marks, len(content)]):
        signature = content[start : start + 4]
        ends: Iterable[int] = range(start + 8, min(start + 600, len(content) - 3))
        if signature == b"OHDR":
            ends = [_end_of_header(content, start)]
        elif signature == b"OCHK":
            ends = range(following - 4, max(following - 64, start), -1)
        found += [(start, end) for end in ends if _fits(content, start, end)][:1]
    return tuple(found)


def _fits(content: bytes, start: int, end: int) -> bool:
    return content[end : end + 4] == lookup3(content[start:end]).to_bytes(4, "little")


def _end_of_header(content: bytes, start: int) -> int:
    flags = content[start + 5]
    place = start + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    return place + width + int.from_bytes(content[place : place + width], "little")


def _chunks(path: Path) -> tuple[tuple[int, int], ...]:
    places: list[tuple[int, int]] = []

    def look(_: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and item.chunks:
            infos = [item.id.get_chunk_info(i) for i in range(item.id.get_num_chunks())]
            places.extend((info.byte_offset, info.size) for info in infos)

    with h5py.File(path) as file:
        file.visititems(look)
    return tuple(places)


def _position(content: bytes | bytearray, rng: Rng) -> int:
    return int(rng.integers(len(content)))


def flip_bits(material: Material, rng: Rng) -> bytes:
    damaged = bytearray(material.content)
    for _ in range(int(rng.choice([1, 1, 1, 2, 8, 64]))):
        damaged[_position(damaged, rng)] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def zero_page(material: Material, rng: Rng) -> bytes:
    damaged = bytearray(material.content)
    length = PAGE * int(rng.choice([1, 1, 8]))
    start = _position(damaged, rng) // PAGE * PAGE
    fill = bytes([int(rng.choice([0, 0, 255]))])
    damaged[start : start + length] = fill * len(damaged[start : start + length])
    return bytes(damaged)


def swap_pages(material: Material, rng: Rng) -> bytes:
    damaged = bytearray(material.content)
    first, second = (_position(damaged[PAGE:], rng) // PAGE * PAGE for _ in range(2))
    a, b = damaged[first : first + PAGE], damaged[second : second + PAGE]
    damaged[first : first + PAGE], damaged[second : second + PAGE] = b, a
    return bytes(damaged)


def swap_chunks(material: Material, rng: Rng) -> bytes:
    if len(material.chunks) < 2:
        return swap_pages(material, rng)
    damaged = bytearray(material.content)
    start, length = material.chunks[int(rng.integers(len(material.chunks)))]
    equal = [place for place, size in material.chunks if size == length and place != start]
    if not equal:
        return swap_pages(material, rng)
    other = equal[int(rng.integers(len(equal)))]
    a, b = damaged[start : start + length], damaged[other : other + length]
    damaged[start : start + length], damaged[other : other + length] = b, a
    return bytes(damaged)


def splice(material: Material, rng: Rng) -> bytes:
    """Take a part from another sound file of the same shape."""
    damaged = bytearray(material.content)
    start = _position(damaged, rng)
    end = start + int(rng.integers(1, 4 * PAGE))
    if material.chunks and rng.random() < 0.5:
        start, length = material.chunks[int(rng.integers(len(material.chunks)))]
        end = start + length
    part = material.other[start:end]
    damaged[start : start + len(part)] = part
    return bytes(damaged)


def truncate(material: Material, rng: Rng) -> bytes:
    return material.content[: _position(material.content, rng)]


def extend(material: Material, rng: Rng) -> bytes:
    tails = (bytes(PAGE), rng.bytes(PAGE), material.content, b"\x89HDF\r\n\x1a\n", b"<html>")
    return material.content + tails[int(rng.integers(len(tails)))]


def shift(material: Material, rng: Rng) -> bytes:
    """Lose or gain some bytes in the middle, as line-ending conversion does."""
    start = _position(material.content, rng)
    if rng.random() < 0.2:
        return material.content.replace(b"\r\n", b"\n")
    lost = int(rng.integers(0, 9))
    return material.content[:start] + rng.bytes(int(rng.integers(0, 9))) + material.content[start + lost :]


def forge(material: Material, rng: Rng) -> bytes:
    """Change metadata and repair their checksums."""
    damaged = bytearray(material.content)
    for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
        start, end = material.blocks[int(rng.integers(len(material.blocks)))]
        place = int(rng.integers(start + 4, end))
        how = rng.integers(4)
        if how == 0:
            damaged[place] ^= 1 << int(rng.integers(8))
        elif how == 1:
            damaged[place] = int(rng.choice([0, 1, 2, 127, 255]))
        elif how == 2:
            width = min(int(rng.choice([2, 4, 8])), end - place)
            number = _EXTREME[int(rng.integers(len(_EXTREME)))] % 2 ** (8 * width)
            damaged[place : place + width] = number.to_bytes(width, "little")
        else:
            other, _ = material.blocks[int(rng.integers(len(material.blocks)))]
            width = min(8, end - place)
            damaged[place : place + width] = other.to_bytes(8, "little")[:width]  # an address that exists
        damaged[end : end + 4] = lookup3(bytes(damaged[start:end])).to_bytes(4, "little")
    return bytes(damaged)


MUTATIONS: Mapping[str, tuple[Callable[[Material, Rng], bytes], int]] = {
    "bits": (flip_bits, 20),
    "zeroed page": (zero_page, 10),
    "swapped pages": (swap_pages, 8),
    "swapped chunks": (swap_chunks, 8),
    "spliced": (splice, 8),
    "truncated": (truncate, 6),
    "extended": (extend, 3),
    "shifted": (shift, 4),
    "forged": (forge, 25),
}
"""By name, with how often each is drawn."""
