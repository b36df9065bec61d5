"""Damage to bytes, as a pure function of a seed."""

import random
from collections.abc import Sequence

SCRAPS = (
    b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80", b"\xff\xd9", b"\xff\xda",
    b"PK\x01\x02", b"\x93NUMPY", b"{", b"}", b"[", b"]", b"[[[[[[[[", b'"', b"'", b":", b": ", b"- ", b"\n", b"\t", b"#",
    b"&a ", b"*a", b"!!python/object:os.system ", b"<<: ", b"null", b"NaN", b"-1", b"1e999", b"9" * 30, b"\\ud800",
    b"\xed\xa0\x80", b"\xc3\xa9", b"true", b"0", b"18446744073709551616", b"9223372036854775807", b"data_offsets", b"../",
)  # fmt: skip


def damaged(seeds: Sequence[bytes], key: int) -> bytes:
    """One of the seeds with one to eight changes, some of them of its numbers."""
    draw = random.Random(key)
    data = bytearray(draw.choice(seeds))
    for _ in range(draw.randint(1, 8)):
        # Half of all changes fall on the start, where the headers are.
        most = len(data) if draw.random() < 0.5 else min(len(data), 200)
        at = draw.randint(0, most)
        match draw.randrange(8):
            case 0:
                data[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                data[at:at] = draw.choice(SCRAPS)
            case 2:
                scrap = draw.choice(SCRAPS)
                data[at : at + len(scrap)] = scrap
            case 3:
                del data[at : at + draw.randint(1, 40)]
            case 4:
                del data[at:]
            case 5:
                data[at:at] = data[at : at + draw.randint(1, 60)] * draw.randint(1, 4)
            case 6:
                other = draw.choice(seeds)
                start = draw.randint(0, len(other))
                data[at:at] = other[start : start + draw.randint(1, 80)]
            case _:
                if at < len(data):
                    data[at] ^= 1 << draw.randrange(8)
    return bytes(data)
