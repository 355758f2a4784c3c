"""ML-KEM-768 encapsulation with given randomness, straight from FIPS 203.

`cryptography` draws this randomness itself and takes none, so a test vector that fixes it needs
an encapsulation of its own. Slow, and not constant-time: for tests only.
"""

from __future__ import annotations

import hashlib

N, Q, K = 256, 3329, 3
ETA, DU, DV = 2, 10, 4

Poly = list[int]


def _bit_reversed(i: int) -> int:
    return int(f"{i:07b}"[::-1], 2)


ZETAS = [pow(17, _bit_reversed(i), Q) for i in range(128)]
GAMMAS = [pow(17, 2 * _bit_reversed(i) + 1, Q) for i in range(128)]


def encapsulate(ek: bytes, m: bytes) -> tuple[bytes, bytes]:
    """ML-KEM.Encaps_internal (algorithm 17): shared secret and ciphertext."""
    secret_and_r = hashlib.sha3_512(m + hashlib.sha3_256(ek).digest()).digest()
    return secret_and_r[:32], _encrypt(ek, m, secret_and_r[32:])


def _encrypt(ek: bytes, m: bytes, r: bytes) -> bytes:
    """K-PKE.Encrypt (algorithm 14)."""
    t_hat = [_unpack(ek[384 * i : 384 * (i + 1)], 12) for i in range(K)]
    rho = ek[384 * K :]
    noise = [_sample_cbd(hashlib.shake_256(r + bytes((n,))).digest(64 * ETA)) for n in range(7)]
    y_hat = [_ntt(poly) for poly in noise[:K]]
    u = []
    for i in range(K):
        column = [_sample_ntt(rho + bytes((i, j))) for j in range(K)]  # row i of the transpose
        u.append(_add(_inverse_ntt(_dot(column, y_hat)), noise[K + i]))
    mu = [(Q + 1) // 2 * bit for bit in _unpack(m, 1)]
    v = _add(_add(_inverse_ntt(_dot(t_hat, y_hat)), noise[2 * K]), mu)
    return b"".join(_pack(_compress(poly, DU), DU) for poly in u) + _pack(_compress(v, DV), DV)


def _unpack(data: bytes, bits: int) -> Poly:
    number = int.from_bytes(data, "little")
    return [number >> bits * i & (1 << bits) - 1 for i in range(N)]


def _pack(poly: Poly, bits: int) -> bytes:
    number = sum(value << bits * i for i, value in enumerate(poly))
    return number.to_bytes(N * bits // 8, "little")


def _compress(poly: Poly, bits: int) -> Poly:
    return [((value << bits) + Q // 2) // Q % (1 << bits) for value in poly]


def _add(a: Poly, b: Poly) -> Poly:
    return [(x + y) % Q for x, y in zip(a, b, strict=True)]


def _sample_cbd(data: bytes) -> Poly:
    """Algorithm 8, for eta = 2."""
    bits = _unpack_bits(data)
    return [
        (bits[4 * i] + bits[4 * i + 1] - bits[4 * i + 2] - bits[4 * i + 3]) % Q for i in range(N)
    ]


def _unpack_bits(data: bytes) -> list[int]:
    return [byte >> i & 1 for byte in data for i in range(8)]


def _sample_ntt(seed: bytes) -> Poly:
    """Algorithm 7."""
    stream = hashlib.shake_128(seed).digest(3 * 1024)
    poly: Poly = []
    for at in range(0, len(stream), 3):
        a, b, c = stream[at : at + 3]
        poly += [value for value in (a + 256 * (b % 16), b // 16 + 16 * c) if value < Q]
    return poly[:N]


def _ntt(poly: Poly) -> Poly:
    """Algorithm 9."""
    f = list(poly)
    index, length = 1, 128
    while length >= 2:
        for start in range(0, N, 2 * length):
            zeta, index = ZETAS[index], index + 1
            for j in range(start, start + length):
                t = zeta * f[j + length] % Q
                f[j + length], f[j] = (f[j] - t) % Q, (f[j] + t) % Q
        length //= 2
    return f


def _inverse_ntt(poly: Poly) -> Poly:
    """Algorithm 10."""
    f = list(poly)
    index, length = 127, 2
    while length <= 128:
        for start in range(0, N, 2 * length):
            zeta, index = ZETAS[index], index - 1
            for j in range(start, start + length):
                t = f[j]
                f[j] = (t + f[j + length]) % Q
                f[j + length] = zeta * (f[j + length] - t) % Q
        length *= 2
    return [value * 3303 % Q for value in f]


def _dot(a: list[Poly], b: list[Poly]) -> Poly:
    total = [0] * N
    for x, y in zip(a, b, strict=True):
        total = _add(total, _multiply(x, y))
    return total


def _multiply(f: Poly, g: Poly) -> Poly:
    """Algorithms 11 and 12."""
    h: Poly = []
    for i, gamma in enumerate(GAMMAS):
        a0, a1, b0, b1 = f[2 * i], f[2 * i + 1], g[2 * i], g[2 * i + 1]
        h += [(a0 * b0 + a1 * b1 * gamma) % Q, (a0 * b1 + a1 * b0) % Q]
    return h
