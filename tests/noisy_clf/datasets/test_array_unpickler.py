"""Arrays come out of pickles whoever wrote them, and nothing else ever does."""
from __future__ import annotations

import base64
import copyreg
import pickle
import random
import struct
import sys
import tracemalloc
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noisy_clf.datasets.array_unpickler import read_pickled_arrays
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
    ("Python 2.7.18, numpy 1.16.6, protocol 1", """
fXEBKFUDYmlncQJjbnVtcHkuY29yZS5tdWx0aWFycmF5Cl9yZWNvbnN0cnVjdApxAyhjbnVtcHkKbmRhcnJheQpxBChLAHRVAWJ0UnEFKEsBKEsCdGNudW1w
eQpkdHlwZQpxBihVAmkySwBLAXRScQcoSwNVAT5OTk5K/////0r/////SwB0YkkwMApVBAAB//50YlUGbGFiZWxzcQhdcQkoSwFN6ANlVQdmb3J0cmFucQpo
AyhoBChLAHRVAWJ0UnELKEsBKEsCSwN0aAYoVQJ1MUsASwF0UnEMKEsDVQF8Tk5OSv////9K/////0sAdGJJMDEKVQYAXAqAJ/90YlUFZXBvY2hxDWNudW1w
eS5jb3JlLm11bHRpYXJyYXkKc2NhbGFyCnEOKGgGKFUCZjhLAEsBdFJxDyhLA1UBPE5OTkr/////Sv////9LAHRiVQgAAAAAAADQP3RScRBVBW5hbWVzcRFd
cRIoVQNjYXRxE1UEbSciCnEUZVUEZGF0YXEVaAMoaAQoSwB0VQFidFJxFihLAShLAksDdGgMSTAwClUGAAonXID/dGJVBG1lYW5xF2gDKGgEKEsAdFUBYnRS
cRgoSwEoSwJ0aA9JMDAKVRAAAAAAAADgPwAAAAAAAADAdGJ1Lg==
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
    ("Python 3.6.15, numpy 1.19.5, protocol 4", """
gASVwQEAAAAAAAB9lCiMBGRhdGGUjBVudW1weS5jb3JlLm11bHRpYXJyYXmUjAxfcmVjb25zdHJ1Y3SUk5SMBW51bXB5lIwHbmRhcnJheZSTlEsAhZRDAWKU
h5RSlChLAUsCSwOGlGgFjAVkdHlwZZSTlIwCdTGUiYiHlFKUKEsDjAF8lE5OTkr/////Sv////9LAHSUYolDBgAKJ1yA/5R0lGKMBmxhYmVsc5RdlChLAU3o
A2WMBG1lYW6UaARoB0sAhZRoCYeUUpQoSwFLAoWUaA6MAmY4lImIh5RSlChLA4wBPJROTk5K/////0r/////SwB0lGKJQxAAAAAAAADgPwAAAAAAAADAlHSU
YowFZXBvY2iUaAKMBnNjYWxhcpSTlGgfQwgAAAAAAADQP5SGlFKUjAdmb3J0cmFulGgEaAdLAIWUaAmHlFKUKEsBSwJLA4aUaBGIQwYAXAqAJ/+UdJRijANi
aWeUaARoB0sAhZRoCYeUUpQoSwFLAoWUaA6MAmkylImIh5RSlChLA4wBPpROTk5K/////0r/////SwB0lGKJQwQAAf/+lHSUYowFbmFtZXOUXZQojANjYXSU
jARtJyIKlGV1Lg==
"""),
    ("Python 3.10.13, numpy 1.26.4, protocol 3", """
gAN9cQAoWAQAAABkYXRhcQFjbnVtcHkuY29yZS5tdWx0aWFycmF5Cl9yZWNvbnN0cnVjdApxAmNudW1weQpuZGFycmF5CnEDSwCFcQRDAWJxBYdxBlJxByhL
AUsCSwOGcQhjbnVtcHkKZHR5cGUKcQlYAgAAAHUxcQqJiIdxC1JxDChLA1gBAAAAfHENTk5OSv////9K/////0sAdHEOYolDBgAKJ1yA/3EPdHEQYlgGAAAA
bGFiZWxzcRFdcRIoSwFN6ANlWAQAAABtZWFucRNoAmgDSwCFcRRoBYdxFVJxFihLAUsChXEXaAlYAgAAAGY4cRiJiIdxGVJxGihLA1gBAAAAPHEbTk5OSv//
//9K/////0sAdHEcYolDEAAAAAAAAOA/AAAAAAAAAMBxHXRxHmJYBQAAAGVwb2NocR9jbnVtcHkuY29yZS5tdWx0aWFycmF5CnNjYWxhcgpxIGgaQwgAAAAA
AADQP3EhhnEiUnEjWAcAAABmb3J0cmFucSRoAmgDSwCFcSVoBYdxJlJxJyhLAUsCSwOGcShoDIhDBgBcCoAn/3EpdHEqYlgDAAAAYmlncStoAmgDSwCFcSxo
BYdxLVJxLihLAUsChXEvaAlYAgAAAGkycTCJiIdxMVJxMihLA1gBAAAAPnEzTk5OSv////9K/////0sAdHE0YolDBAAB//5xNXRxNmJYBQAAAG5hbWVzcTdd
cTgoWAMAAABjYXRxOVgEAAAAbSciCnE6ZXUu
"""),
    ("Python 3.10.13, numpy 1.26.4, protocol 5", """
gAWVtQEAAAAAAAB9lCiMBGRhdGGUjBJudW1weS5jb3JlLm51bWVyaWOUjAtfZnJvbWJ1ZmZlcpSTlCiWBgAAAAAAAAAACidcgP+UjAVudW1weZSMBWR0eXBl
lJOUjAJ1MZSJiIeUUpQoSwOMAXyUTk5OSv////9K/////0sAdJRiSwJLA4aUjAFDlHSUUpSMBmxhYmVsc5RdlChLAU3oA2WMBG1lYW6UaAQolhAAAAAAAAAA
AAAAAAAA4D8AAAAAAAAAwJRoCIwCZjiUiYiHlFKUKEsDjAE8lE5OTkr/////Sv////9LAHSUYksChZRoD3SUUpSMBWVwb2NolIwVbnVtcHkuY29yZS5tdWx0
aWFycmF5lIwGc2NhbGFylJOUaBhDCAAAAAAAANA/lIaUUpSMB2ZvcnRyYW6UaAQolgYAAAAAAAAAAFwKgCf/lGgLSwJLA4aUjAFGlHSUUpSMA2JpZ5RoBCiW
BAAAAAAAAAAAAf/+lGgIjAJpMpSJiIeUUpQoSwOMAT6UTk5OSv////9K/////0sAdJRiSwKFlGgPdJRSlIwFbmFtZXOUXZQojANjYXSUjARtJyIKlGV1Lg==
"""),
]
NDARRAY, KIND = b"cnumpy\nndarray\n", b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\n(" + NDARRAY + b"(I0\ntS'b'\ntR"


def written(content: bytes) -> Path:
    Path("batch").write_bytes(content)
    return Path("batch")


def read(content: bytes) -> dict[str, Any]:
    return read_pickled_arrays(written(content))


def refused(content: bytes) -> str:
    """What is told of a file that is not read: one sentence with its name, and nothing has happened."""
    before = set(sys.modules)
    with pytest.raises(UserError) as caught:
        read(content)
    told = str(caught.value)
    assert told.startswith("batch") and told.endswith(".") and "\n" not in told and ". " not in told, told
    assert not Path("touched").exists() and set(sys.modules) == before
    return told


def array(shape: bytes, data: bytes, kind: bytes = KIND, fortran: bytes = b"I0\n") -> bytes:
    """A pickle of {"a": array}, by instructions of protocol 0."""
    return b"(S'a'\n" + EMPTY + b"(I1\n(" + shape + b"t" + kind + fortran + data + b"tbd."


def assert_is_content(found: dict[str, Any]) -> None:
    assert list(map(str, sorted(found))) == sorted(CONTENT)
    for name, value in CONTENT.items():
        if isinstance(value, np.ndarray):
            assert type(found[name]) is np.ndarray and found[name].dtype in (value.dtype, value.dtype.newbyteorder("="))
            np.testing.assert_array_equal(found[name], value)
        else:
            assert found[name] == value and type(found[name]) is type(value)


@pytest.mark.parametrize("text", [text for _, text in WRITTEN], ids=[who for who, _ in WRITTEN])
def test_pickles_of_other_pythons_and_numpys_are_read(text: str) -> None:
    assert_is_content(read(base64.b64decode(text)))


@pytest.mark.parametrize("dumps", [pickle.dumps, pickle._dumps], ids=["C", "Python"])  # type: ignore[attr-defined]
@pytest.mark.parametrize("protocol", range(6))
def test_what_this_python_writes_is_read_in_every_protocol(protocol: int, dumps: Any) -> None:
    assert_is_content(read(dumps(CONTENT, protocol)))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", "? i1 u1 i2 u2 i4 u4 i8 u8 f2 f4 f8 c8 c16 >i4 >f8".split())
def test_numbers_of_every_kind_and_shape_come_back(kind: str, protocol: int) -> None:
    for shape in ((), (0,), (3, 0, 2), (1,), (2, 3, 4)):
        value = np.asarray(np.random.default_rng(0).integers(0, 2 if kind == "?" else 100, shape)).astype(kind)
        found = read(pickle.dumps({"a": value, "again": [value]}, protocol))
        assert found["a"].shape == shape and found["a"].dtype in (value.dtype, value.dtype.newbyteorder("="))
        np.testing.assert_array_equal(found["a"], value)
        assert found["again"][0] is found["a"]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_comes_back(protocol: int) -> None:
    content = {"a": [None, True, False, 0, -1, 2 ** 40, -2 ** 80, 1.5, "", "é\0\n☃", b"", b"\0\xff\n" * 90],
               "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, [4])], "many": list(range(3000)),
               "b": {1: {"c": []}, (2, "d"): np.int64(3), None: np.float32(0.5)}}
    assert read(pickle.dumps(content, protocol)) == content


def test_a_dict_may_hold_itself() -> None:
    content: dict[str, Any] = {}
    content["self"] = content
    found = read(pickle.dumps(content))
    assert found["self"] is found


def test_arrays_cannot_be_written_to() -> None:
    for protocol in range(6):
        for value in (read(pickle.dumps(CONTENT, protocol))[name] for name in ("data", "fortran", "big")):
            with pytest.raises(ValueError, match="read-only"):
                value[0] = 1


@pytest.mark.parametrize("writer, times", [(5, 1), (4, 1), (3, 1), ("Python 2", 2)])
def test_no_more_copies_are_made_than_are_told(writer: Any, times: int) -> None:
    value = {"a": np.random.default_rng(0).integers(0, 256, 4_000_000, np.uint8)}
    path = written(python_2(value["a"]) if writer == "Python 2" else pickle.dumps(value, writer))
    tracemalloc.start()
    try:
        found = read_pickled_arrays(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found["a"], value["a"])
    assert peak < (times + 0.05) * value["a"].nbytes


def python_2(value: np.ndarray) -> bytes:
    """As Python 2 writes {"a": uint8 [N]}, its bytes as a string."""
    return array(b"I%d\n" % len(value), b"T" + struct.pack("<i", value.nbytes) + value.tobytes() + b"p9\n")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrap", [
    lambda evil: evil, lambda evil: {"data": evil}, lambda evil: {"data": DATA, "labels": [1, (2, [evil])]},
    lambda evil: {evil: 1}, lambda evil: np.array([evil, None], object), lambda evil: {"a": np.array(evil, object)}])
def test_code_is_never_run_wherever_it_hides(wrap: Any, protocol: int) -> None:
    evil = TouchesAFile(Path("touched"))
    content = pickle.dumps(wrap(evil), protocol)
    assert " carries " in refused(content) and "is not opened; only arrays of numbers" in refused(content)


@pytest.mark.parametrize("content, words", [
    (b"cos\nsystem\n(S'touch touched'\ntR.", "code (os.system)"),
    (b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\rtouch touched\x85R.", "code (posix.system)"),
    (b"cbuiltins\neval\n(S'open(\"touched\", \"w\")'\ntR.", "code (builtins.eval)"),
    (b"c__builtin__\ngetattr\n.", "code (__builtin__.getattr)"),
    (b"cantigravity\nfly\n.", "code (antigravity.fly)"),
    (b"ccopy_reg\n_reconstructor\n.", "code (copy_reg._reconstructor)"),
    (b"ccopyreg\n__newobj__\n.", "code (copyreg.__newobj__)"),
    (b"cnumpy.f2py.crackfortran\nmyeval\n.", "code (numpy.f2py.crackfortran.myeval)"),
    (b"cnumpy\nload\n.", "code (numpy.load)"),
    (b"cnumpy.testing._private.utils\nrunstring\n.", "code (numpy.testing._private.utils.runstring)"),
    (b"cnumpy\nmatrix\n.", "code (numpy.matrix)"),
    (b"cnumpy\nmemmap\n.", "code (numpy.memmap)"),
    (b"cnumpy.ma.core\n_mareconstruct\n.", "code (numpy.ma.core._mareconstruct)"),
    (b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.__reduce__\x93.", "code (numpy.ndarray.__reduce__)"),
    (b"\x80\x04\x8c\x16numpy._core.multiarray\x8c\x18_reconstruct.__globals__\x93.", "_reconstruct.__globals__)"),
    (b"c\n\n.", "is not a whole pickle"),
    (b"\x80\x04\x8c\x02os\x8c\x07sys\ntem\x93.", "is not a whole pickle"),
    (b"cos\nsystem\xff\n.", "is not a whole pickle"),
    (b"\x80\x04I1\nI2\n\x93.", "is not a whole pickle"),  # names that are no text
    (b"(S'touch touched'\nios\nsystem\n.", "(INST)"),
    (b"(" + NDARRAY + b"I3\no.", "(OBJ)"),
    (NDARRAY + b"(I3\nt\x81.", "(NEWOBJ)"),
    (NDARRAY + b"(I3\nt}\x92.", "(NEWOBJ_EX)"),
    (b"P1\n.", "(PERSID)"),
    (b"I1\nQ.", "(BINPERSID)"),
    (b"\x82\x01.", "(EXT1)"),
    (b"\x83\x01\0.", "(EXT2)"),
    (b"\x84\x01\0\0\0.", "(EXT4)"),
    (b"\x8f.", "(EMPTY_SET)"),
    (b"\x97.", "(NEXT_BUFFER)"),
    (NDARRAY + b"(I9\ntR.", "a call of numpy.ndarray"),
    (b"S'os.system'\n(S'touch touched'\ntR.", "a call of something that is no function"),
    (b"S'numpy.dtype'\n(S'u1'\ntR.", "a call of something that is no function"),
    (b"c_codecs\nencode\n(V+x\nV utf-7\ntR.", "bytes of an unusual encoding"),
    (b"c_codecs\nencode\n(Vx\nVrot13\ntR.", "bytes of an unusual encoding"),
    (b"c__builtin__\nbytes\n(I99999999999\ntR.", "is not a whole pickle"),
])
def test_names_and_instructions_that_make_no_arrays_are_refused(content: bytes, words: str) -> None:
    assert words in refused(content)


@pytest.mark.parametrize("arguments, words", [
    (b"S'numpy.ndarray'\n(I0\ntS'b'\n", "an array of an unusual kind"),
    (b"cnumpy\ndtype\n(I0\ntS'b'\n", "an array of an unusual kind"),
    (NDARRAY + b"(I9\ntS'b'\n", "an array of an unusual kind"),
    (NDARRAY + b"(I99999999999\ntS'b'\n", "an array of an unusual kind"),
    (NDARRAY + b"(I0\ntS'O'\n", "an array of an unusual kind"),
    (NDARRAY + b"(I0\nt", "is not a whole pickle"),
])
def test_only_plain_arrays_are_made(arguments: bytes, words: str) -> None:
    assert words in refused(b"cnumpy.core.multiarray\n_reconstruct\n(" + arguments + b"tR.")


@pytest.mark.parametrize("kind", [
    b"S'O8'\n", b"S'O'\n", b"S'V8'\n", b"S'S3'\n", b"S'U3'\n", b"S'M8[s]'\n", b"S'u1,O'\n", b"S'f16'\n", b"(lp1\n", b"I1\n",
    b"N", NDARRAY], ids=repr)
def test_only_numbers_are_in_them(kind: bytes) -> None:
    assert "an array that is not of numbers" in refused(b"cnumpy\ndtype\n(" + kind + b"I0\nI1\ntR.")


@pytest.mark.parametrize("state", [
    b"(I3\nS'|'\nNS'x'\nNI-1\nI-1\nI0\nt", b"(I3\nS'|'\nNN}I-1\nI-1\nI0\nt", b"(I3\nS'|'\n(I2\ntNNI-1\nI-1\nI0\nt",
    b"(I3\nS'|'\nNNNI4096\nI-1\nI0\nt", b"(I3\nS'|'\nNNNI-1\nI-1\nI63\nt", b"(I3\nS'?'\nNNNI-1\nI-1\nI0\nt"])
def test_a_numbers_kind_is_not_bent_afterwards(state: bytes) -> None:
    assert "an array that is not of plain numbers" in refused(b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR" + state + b"b.")


@pytest.mark.parametrize("target", [NDARRAY, b"cnumpy\ndtype\n", b"(d", b"(l", b"I1\n", b"S'x'\n"], ids=repr)
@pytest.mark.parametrize("state", [b"(dS'x'\nI1\ns", b"(N(dS'text'\nS'os.system'\nst", b"(I1\nt"], ids=repr)
def test_only_arrays_and_their_kinds_have_a_state(target: bytes, state: bytes) -> None:
    assert "a state for a " in refused(target + state + b"b.")
    assert_is_content(read(pickle.dumps(CONTENT)))


def test_an_array_is_as_large_as_its_data() -> None:
    assert read(array(b"I2\nI3\n", b"S'abcdef'\n"))["a"].tolist() == [[97, 98, 99], [100, 101, 102]]
    assert read(array(b"I2\nI3\n", b"S'abcdef'\n", fortran=b"I1\n"))["a"].tolist() == [[97, 99, 101], [98, 100, 102]]


@pytest.mark.parametrize("shape", [
    b"I2\nI4\n", b"I2\nI2\n", b"I-2\nI-3\n", b"I-6\n", b"", b"F6\n", b"S'6'\n", b"I1000000000000\n",
    b"I4294967296\nI4294967296\n", b"L4611686018427387904L\nI4\n", b"I0\nL9223372036854775807L\n",
    b"I1\n" * 70 + b"I6\n", b"L" + b"9" * 9000 + b"L\n", b"(I6\nt"])
def test_an_array_of_another_size_than_its_data_is_refused(shape: bytes) -> None:
    assert "is not a whole pickle of arrays (" in refused(array(shape, b"S'abcdef'\n"))


@pytest.mark.parametrize("data", [b"(lp1\nS'abcdef'\na", b"N", b"(dp1\n", b"I6\n", NDARRAY, KIND], ids=repr)
def test_an_arrays_data_are_bytes(data: bytes) -> None:
    assert "an array that is not of plain numbers" in refused(array(b"I6\n", data))


def test_the_registry_of_extensions_opens_no_back_door() -> None:
    copyreg.add_extension("builtins", "open", 241)
    try:
        assert pickle.loads(b"\x80\x02\x82\xf1.") is open  # from now on in Python's cache
        assert "(EXT1)" in refused(b"\x80\x02\x82\xf1(S'touched'\nS'w'\ntR.")
    finally:
        copyreg.remove_extension("builtins", "open", 241)
        copyreg._extension_cache.pop(241, None)  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [
    OrderedDict(a=1), {"a": Fraction(1, 2)}, {"a": {1, 2}}, {"a": complex(1, 2)}, {"a": np.array([None])}, {"a": Path("x")},
    {"a": np.ma.array([1])}, {"a": np.array(["x"])}, {"a": np.zeros(1, "u1,u1")}, {"a": np.datetime64(1, "s")}], ids=repr)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_other_objects_are_refused(value: Any, protocol: int) -> None:
    assert " carries " in refused(pickle.dumps(value, protocol))


@pytest.mark.parametrize("value", [DATA, [DATA], "text", None, {1: DATA}, {b"data": DATA}, {None: 1}], ids=repr)
def test_what_is_no_dict_by_name_is_refused(value: Any) -> None:
    assert "should hold arrays by name and holds something else" in refused(pickle.dumps(value))


@pytest.mark.parametrize("content", [
    b"", b"\n", b".", b"\x80", b"\x80\x63.", b"0.", b"1.", b"t.", b"}a.", b"(e.", b"}I1\n(lI2\nss.", b"g7\n.", b"h\x07.",
    b"j\xff\xff\xff\xff.", b"\x94.", b"q\x01.", b"]" * 100_000 + b"a" * 99_999 + b".", b"(" * 100_000, b"}r\xff\xff\xff\xff",
    b"\x95" + b"\xff" * 8 + b"}.", b"\x8e" + b"\xff" * 7 + b"\x7f", b"\x8e" + struct.pack("<Q", 1 << 40) + b"abc",
    b"\x96" + struct.pack("<Q", 1 << 40) + b"abc", b"\x96" + struct.pack("<Q", 30 << 30) + b"abc.", b"B\xff\xff\xff\xffabc",
    b"T\xff\xff\xff\x7fabc", b"T\xff\xff\xff\xffabc", b"\x8b\xff\xff\xff\xffabc", b"<!DOCTYPE html><html>Sign in</html>",
    b"version https://git-lfs.github.com/spec/v1\n", bytes(5000), b"PK\3\4" + bytes(100), b"\x93NUMPY\x01\x00v\x00{'descr'",
    random.Random(0).randbytes(5000)], ids=lambda content: repr(content[:20]))
def test_what_is_no_pickle_or_a_damaged_one_is_refused(content: bytes) -> None:
    refused(content)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_without_its_end_is_refused_wherever_it_ends(protocol: int) -> None:
    whole = pickle.dumps(CONTENT, protocol)
    for length in [*range(0, len(whole), 7), *range(len(whole) - 30, len(whole))]:
        refused(whole[:length])


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_with_wrong_bytes_is_refused_or_read_and_nothing_happens(protocol: int) -> None:
    source, whole = random.Random(protocol), pickle.dumps(CONTENT, protocol)
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
