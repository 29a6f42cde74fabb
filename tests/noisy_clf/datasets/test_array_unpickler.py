"""Arrays come out of pickles whoever wrote them, and nothing else ever does."""
from __future__ import annotations

import base64
import pickle
import random
import struct
import sys
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noisy_clf.datasets.array_unpickler import NAMES, read_pickled_arrays
from noisy_clf.errors import UserError
from tests.noisy_clf.conftest import TouchesAFile

DATA = np.array([[0, 10, 39], [92, 128, 255]], np.uint8)
CONTENT: dict[str, Any] = {
    "data": DATA, "labels": [1, 1000], "mean": np.array([0.5, -2.0]), "epoch": np.float64(0.25),
    "fortran": np.asfortranarray(DATA), "big": np.array([1, -2], ">i2"), "names": ["cat", "m'\"\n"]}
WRITTEN = [  # CONTENT, by others
    ("Python 2.7.18, numpy 1.16.6, protocol 0", """
KGRwMQpTJ2JpZycKcDIKY251bXB5LmNvcmUubXVsdGlhcnJheQpfcmVjb25zdHJ1Y3QKcDMKKGNudW1weQpuZGFycmF5CnA0CihJMAp0UydiJwp0UnA1CihJ
MQooSTIKdGNudW1weQpkdHlwZQpwNgooUydpMicKSTAKSTEKdFJwNwooSTMKUyc+JwpOTk5JLTEKSS0xCkkwCnRiSTAwClMnXHgwMFx4MDFceGZmXHhmZScK
dGJzUydsYWJlbHMnCnA4CihscDkKSTEKYUkxMDAwCmFzUydmb3J0cmFuJwpwMTAKZzMKKGc0CihJMAp0UydiJwp0UnAxMQooSTEKKEkyCkkzCnRnNgooUyd1
MScKSTAKSTEKdFJwMTIKKEkzClMnfCcKTk5OSS0xCkktMQpJMAp0YkkwMQpTIlx4MDBcXFxuXHg4MCdceGZmIgp0YnNTJ2Vwb2NoJwpwMTMKY251bXB5LmNv
cmUubXVsdGlhcnJheQpzY2FsYXIKcDE0CihnNgooUydmOCcKSTAKSTEKdFJwMTUKKEkzClMnPCcKTk5OSS0xCkktMQpJMAp0YlMnXHgwMFx4MDBceDAwXHgw
MFx4MDBceDAwXHhkMD8nCnRScDE2CnNTJ25hbWVzJwpwMTcKKGxwMTgKUydjYXQnCnAxOQphUydtXCciXG4nCnAyMAphc1MnZGF0YScKcDIxCmczCihnNAoo
STAKdFMnYicKdFJwMjIKKEkxCihJMgpJMwp0ZzEyCkkwMApTIlx4MDBcbidcXFx4ODBceGZmIgp0YnNTJ21lYW4nCnAyMwpnMwooZzQKKEkwCnRTJ2InCnRS
cDI0CihJMQooSTIKdGcxNQpJMDAKUydceDAwXHgwMFx4MDBceDAwXHgwMFx4MDBceGUwP1x4MDBceDAwXHgwMFx4MDBceDAwXHgwMFx4MDBceGMwJwp0YnMu
"""),
    ("Python 2.7.18, numpy 1.16.6, protocol 2", """
gAJ9cQEoVQNiaWdxAmNudW1weS5jb3JlLm11bHRpYXJyYXkKX3JlY29uc3RydWN0CnEDY251bXB5Cm5kYXJyYXkKcQRLAIVVAWKHUnEFKEsBSwKFY251bXB5
CmR0eXBlCnEGVQJpMksASwGHUnEHKEsDVQE+Tk5OSv////9K/////0sAdGKJVQQAAf/+dGJVBmxhYmVsc3EIXXEJKEsBTegDZVUHZm9ydHJhbnEKaANoBEsA
hVUBYodScQsoSwFLAksDhmgGVQJ1MUsASwGHUnEMKEsDVQF8Tk5OSv////9K/////0sAdGKIVQYAXAqAJ/90YlUFZXBvY2hxDWNudW1weS5jb3JlLm11bHRp
YXJyYXkKc2NhbGFyCnEOaAZVAmY4SwBLAYdScQ8oSwNVATxOTk5K/////0r/////SwB0YlUIAAAAAAAA0D+GUnEQVQVuYW1lc3ERXXESKFUDY2F0cRNVBG0n
IgpxFGVVBGRhdGFxFWgDaARLAIVVAWKHUnEWKEsBSwJLA4ZoDIlVBgAKJ1yA/3RiVQRtZWFucRdoA2gESwCFVQFih1JxGChLAUsChWgPiVUQAAAAAAAA4D8A
AAAAAAAAwHRidS4=
"""),
    ("Python 3.6.15, numpy 1.19.5, protocol 2", """
gAJ9cQAoWAQAAABkYXRhcQFjbnVtcHkuY29yZS5tdWx0aWFycmF5Cl9yZWNvbnN0cnVjdApxAmNudW1weQpuZGFycmF5CnEDSwCFcQRjX2NvZGVjcwplbmNv
ZGUKcQVYAQAAAGJxBlgGAAAAbGF0aW4xcQeGcQhScQmHcQpScQsoSwFLAksDhnEMY251bXB5CmR0eXBlCnENWAIAAAB1MXEOiYiHcQ9ScRAoSwNYAQAAAHxx
EU5OTkr/////Sv////9LAHRxEmKJaAVYCAAAAAAKJ1zCgMO/cRNoB4ZxFFJxFXRxFmJYBgAAAGxhYmVsc3EXXXEYKEsBTegDZVgEAAAAbWVhbnEZaAJoA0sA
hXEaaAmHcRtScRwoSwFLAoVxHWgNWAIAAABmOHEeiYiHcR9ScSAoSwNYAQAAADxxIU5OTkr/////Sv////9LAHRxImKJaAVYEgAAAAAAAAAAAMOgPwAAAAAA
AADDgHEjaAeGcSRScSV0cSZiWAUAAABlcG9jaHEnY251bXB5LmNvcmUubXVsdGlhcnJheQpzY2FsYXIKcShoIGgFWAkAAAAAAAAAAADDkD9xKWgHhnEqUnEr
hnEsUnEtWAcAAABmb3J0cmFucS5oAmgDSwCFcS9oCYdxMFJxMShLAUsCSwOGcTJoEIhoBVgIAAAAAFwKwoAnw79xM2gHhnE0UnE1dHE2YlgDAAAAYmlncTdo
AmgDSwCFcThoCYdxOVJxOihLAUsChXE7aA1YAgAAAGkycTyJiIdxPVJxPihLA1gBAAAAPnE/Tk5OSv////9K/////0sAdHFAYoloBVgGAAAAAAHDv8O+cUFo
B4ZxQlJxQ3RxRGJYBQAAAG5hbWVzcUVdcUYoWAMAAABjYXRxR1gEAAAAbSciCnFIZXUu
"""),
    ("Python 3.10.13, numpy 1.26.4, protocol 5", """
gAWVtQEAAAAAAAB9lCiMBGRhdGGUjBJudW1weS5jb3JlLm51bWVyaWOUjAtfZnJvbWJ1ZmZlcpSTlCiWBgAAAAAAAAAACidcgP+UjAVudW1weZSMBWR0eXBl
lJOUjAJ1MZSJiIeUUpQoSwOMAXyUTk5OSv////9K/////0sAdJRiSwJLA4aUjAFDlHSUUpSMBmxhYmVsc5RdlChLAU3oA2WMBG1lYW6UaAQolhAAAAAAAAAA
AAAAAAAA4D8AAAAAAAAAwJRoCIwCZjiUiYiHlFKUKEsDjAE8lE5OTkr/////Sv////9LAHSUYksChZRoD3SUUpSMBWVwb2NolIwVbnVtcHkuY29yZS5tdWx0
aWFycmF5lIwGc2NhbGFylJOUaBhDCAAAAAAAANA/lIaUUpSMB2ZvcnRyYW6UaAQolgYAAAAAAAAAAFwKgCf/lGgLSwJLA4aUjAFGlHSUUpSMA2JpZ5RoBCiW
BAAAAAAAAAAAAf/+lGgIjAJpMpSJiIeUUpQoSwOMAT6UTk5OSv////9K/////0sAdJRiSwKFlGgPdJRSlIwFbmFtZXOUXZQojANjYXSUjARtJyIKlGV1Lg==
"""),
    *((f"this Python, protocol {number}", base64.b64encode(pickle.dumps(CONTENT, number)).decode()) for number in range(6)),
]
NDARRAY, KIND = b"cnumpy\nndarray\n", b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\n(" + NDARRAY + b"(I0\ntS'b'\ntR"


def read(content: bytes) -> dict[str, Any]:
    Path("batch").write_bytes(content)
    return read_pickled_arrays(Path("batch"))


def refused(content: bytes) -> str:
    """What is told of a file that is not read: one sentence with its name, and nothing has happened."""
    before, names = set(sys.modules), dict(NAMES)
    with pytest.raises(UserError) as caught:
        read(content)
    told = str(caught.value)
    assert told.startswith("batch") and told.endswith(".") and "\n" not in told and ". " not in told, told
    assert not Path("touched").exists() and set(sys.modules) == before and NAMES == names
    return told


def array(shape: bytes, data: bytes, kind: bytes = KIND) -> bytes:
    """A pickle of {"a": array}, by instructions of protocol 0."""
    return b"(S'a'\n" + EMPTY + b"(I1\n(" + shape + b"t" + kind + b"I0\n" + data + b"tbd."


@pytest.mark.parametrize("text", [text for _, text in WRITTEN], ids=[who for who, _ in WRITTEN])
def test_pickles_of_other_pythons_and_numpys_are_read(text: str) -> None:
    found = read(base64.b64decode(text))
    assert sorted(found) == sorted(CONTENT)
    for name, value in CONTENT.items():
        if isinstance(value, np.ndarray):
            assert type(found[name]) is np.ndarray and found[name].dtype in (value.dtype, value.dtype.newbyteorder("="))
            np.testing.assert_array_equal(found[name], value)
        else:
            assert found[name] == value and type(found[name]) is type(value)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", "? i1 u1 i2 u2 i4 u4 i8 u8 f2 f4 f8 c8 c16 >i4 >f8".split())
def test_numbers_of_every_kind_and_shape_come_back(kind: str, protocol: int) -> None:
    for shape in ((), (0,), (3, 0, 2), (1,), (2, 3, 4)):
        value = np.asarray(np.random.default_rng(0).integers(0, 2 if kind == "?" else 100, shape)).astype(kind)
        found = read(pickle.dumps({"a": value}, protocol))["a"]
        assert found.shape == shape and found.dtype in (value.dtype, value.dtype.newbyteorder("="))
        np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize("writer, times", [(5, 1), (4, 1), (3, 1), ("Python 2", 2)])
def test_no_more_copies_are_made_than_are_told(writer: Any, times: int) -> None:
    value = np.random.default_rng(0).integers(0, 256, 4_000_000, np.uint8)
    Path("batch").write_bytes(pickle.dumps({"a": value}, writer) if isinstance(writer, int) else array(
        b"I4000000\n", b"T" + struct.pack("<i", value.nbytes) + value.tobytes() + b"p9\n"))
    tracemalloc.start()
    try:
        found = read_pickled_arrays(Path("batch"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found["a"], value)
    assert peak < (times + 0.05) * value.nbytes


EVIL = TouchesAFile(Path("touched"))
HOSTILE = [
    *(pickle.dumps(wrapped, protocol) for protocol in (0, 2, 4, 5) for wrapped in (
        EVIL, {"data": EVIL}, {"labels": [1, (2, [EVIL])]}, {EVIL: 1}, {"a": np.array([EVIL, None], object)},
        {"a": np.array([None])}, {"a": np.array(["x"])}, {"a": np.zeros(1, "u1,u1")}, {"a": np.datetime64(1, "s")},
        {"a": np.ma.array([1])}, {"a": Path("x")}, OrderedDict(a=1), DATA, [DATA], "text", None, {1: DATA}, {None: 1})),
    b"cos\nsystem\n(S'touch touched'\ntR.", b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\rtouch touched\x85R.",
    b"(S'touch touched'\nios\nsystem\n.", b"(cos\nsystem\nS'touch touched'\no.",
    b"cbuiltins\neval\n(S'open(\"touched\", \"w\")'\ntR.", b"c__builtin__\ngetattr\n.", b"cantigravity\nfly\n.",
    b"ccopy_reg\n_reconstructor\n.", b"cnumpy\nload\n.", b"cnumpy\nmemmap\n.", b"cnumpy.testing._private.utils\nrunstring\n.",
    b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.__reduce__\x93.", b"\x80\x04\x8c\x02os\x8c\x07sys\ntem\x93.", b"c\n\n.",
    b"\x80\x04\x8c\x16numpy._core.multiarray\x8c\x18_reconstruct.__globals__\x93.", b"\x80\x04I1\nI2\n\x93.",
    b"P1\n.", b"I1\nQ.", b"\x82\x01.", b"\x97.",  # persistent ids, extensions, buffers from elsewhere
    NDARRAY + b"(I9\ntR.", NDARRAY + b"(I3\nt\x81.", b"S'os.system'\n(S'touch touched'\ntR.",
    b"cnumpy\ndtype\n)\x81.", b"(S'a'\ncnumpy\ndtype\n)\x81(I3\nS'>'\ntbs.",  # made, but not as they are made
    b"c__builtin__\nbytes\n(I99999999999\ntR.", b"c_codecs\nencode\n(Vx\nVrot13\ntR.",
    *(b"cnumpy\ndtype\n(" + kind + b"I0\nI1\ntR." for kind in (
        b"S'O8'\n", b"S'O'\n", b"S'V8'\n", b"S'U3'\n", b"S'M8[s]'\n", b"S'u1,O'\n", b"S'f16'\n", b"(lp1\n", b"I1\n", b"N",
        NDARRAY)),
    *(target + b"(N(dS'__code__'\nS'x'\nstb." for target in (  # attributes to be set
        b"cnumpy\ndtype\n", b"c_codecs\nencode\n", b"cnumpy.core.multiarray\nscalar\n", b"(d", b"I1\n", EMPTY, KIND)),
    *(array(shape, b"S'abcdef'\n") for shape in (
        b"I2\nI4\n", b"I2\nI2\n", b"I-2\nI-3\n", b"F6\n", b"S'6'\n", b"I1000000000000\n", b"I4294967296\nI4294967296\n",
        b"I0\nL9223372036854775807L\n", b"I1\n" * 70 + b"I6\n", b"(I6\nt")),
    *(array(b"I6\n", data) for data in (b"(lp1\nS'abcdef'\na", b"N", b"(dp1\n", b"I6\n", NDARRAY, KIND, EMPTY)),
    b"(S'a'\n" + EMPTY + b"d.",  # never filled
]


@pytest.mark.parametrize("content", HOSTILE, ids=lambda content: repr(content[:40]))
def test_what_asks_for_more_than_arrays_is_refused_and_nothing_is_run(content: bytes) -> None:
    refused(content)


@pytest.mark.parametrize("content, words", [
    (b"cos\nsystem\n(S'touch touched'\ntR.", "batch carries code ('os.system') and is not opened; only arrays of numbers, "
     "lists and the like are read: download the official file again."),
    (pickle.dumps({"a": np.array([None])}), "batch carries an array that is not of numbers ('O8') and is not opened"),
    (pickle.dumps([DATA]), "batch carries something else than arrays by name (list) and is not opened"),
    (b"<html>Sign in</html>", "batch is not a whole pickle of arrays (")])
def test_it_is_told_why(content: bytes, words: str) -> None:
    assert words in refused(content)


@pytest.mark.parametrize("content", [
    b"", b".", b"\x80\x63.", b"0.", b"t.", b"}a.", b"}I1\n(lI2\nss.", b"g7\n.", b"j\xff\xff\xff\xff.",
    b"]" * 100_000 + b"a" * 99_999 + b".", b"(" * 100_000, b"\x95" + b"\xff" * 8 + b"}.",
    b"\x8e" + struct.pack("<Q", 1 << 60) + b"abc", b"\x96" + struct.pack("<Q", 1 << 60) + b"abc", b"B\xff\xff\xff\xffabc",
    b"T\xff\xff\xff\x7fabc", b"T\xff\xff\xff\xffabc", b"<!DOCTYPE html><html>Sign in</html>", bytes(5000),
    b"version https://git-lfs.github.com/spec/v1\n", b"PK\3\4" + bytes(100), b"\x93NUMPY\x01\x00v\x00{'descr'",
    random.Random(0).randbytes(5000)], ids=lambda content: repr(content[:20]))
def test_what_is_no_pickle_is_refused(content: bytes) -> None:
    refused(content)


@pytest.mark.parametrize("protocol", range(6))
def test_a_torn_pickle_is_refused_and_one_with_wrong_bytes_at_worst_read(protocol: int) -> None:
    source, whole = random.Random(protocol), pickle.dumps(CONTENT, protocol)
    for length in [*range(0, len(whole), 7), *range(len(whole) - 30, len(whole))]:
        refused(whole[:length])
    for _ in range(400):
        wrong = bytearray(whole)
        for _ in range(source.randint(1, 4)):
            wrong[source.randrange(len(wrong))] = source.randrange(256)
        try:
            assert isinstance(read(bytes(wrong)), dict)
        except UserError as error:
            assert "\n" not in str(error) and str(error).endswith(".")


def test_a_file_that_cannot_be_opened_is_told() -> None:
    with pytest.raises(UserError, match=r"^gone: No such file or directory\.$"):
        read_pickled_arrays(Path("gone"))
    with pytest.raises(UserError, match=r"^\.: Is a directory\.$"):
        read_pickled_arrays(Path("."))
