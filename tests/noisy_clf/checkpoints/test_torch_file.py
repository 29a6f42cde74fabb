"""A world of wrong files, and what each is told; the right ones, whole and memory-mapped."""
from __future__ import annotations

import json
import os
import pickle
import random
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn
from torch.testing import assert_close

from noisy_clf.errors import UserError
from noisy_clf.checkpoints.tensors import give_tensors
from noisy_clf.checkpoints.torch_file import read_tensors
from tests.noisy_clf.conftest import TouchesAFile

TENSORS = {"a.weight": torch.arange(10_000.0).reshape(100, 100), "a.bias": -torch.ones(7)}
OLD_FORMAT = {"_use_new_zipfile_serialization": False}
TORN = "is not a whole checkpoint of torch ("
NO_CHECKPOINT = "is not a checkpoint of torch, or is damaged; remove it, and copy or download it again."


def stored(content: Any, **how: Any) -> Path:
    torch.save(content, "model.pt", **how)
    return Path("model.pt")


def written(content: bytes, name: str = "model.pt") -> Path:
    Path(name).write_bytes(content)
    return Path(name)


def refused(path: Path) -> str:
    """What a file that is not read is told: its name, and one sentence."""
    with pytest.raises(UserError) as caught:
        read_tensors(path)
    told = str(caught.value)
    assert told.startswith(str(path)) and told.endswith(".") and "\n" not in told and ". " not in told, told
    return told


@pytest.mark.parametrize("content, words", [
    (b"<!DOCTYPE html><html>Sign in</html>", "is a web page, not a checkpoint"),
    (b"\xef\xbb\xbf\r\n<html>Not found</html>", "is a web page"),
    (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "is a web page"),
    (b"", "is empty; remove it, and copy or download it again."),
    (b" \n" * 400, "is empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 34\n", "is a Git LFS pointer"),
    (b"Not Found\n", NO_CHECKPOINT),
    (json.dumps({"weight": 1}).encode(), NO_CHECKPOINT),
    (b"\x80", TORN),
    (bytes(5000), TORN),
    (b"PK" + random.Random(0).randbytes(2000), "(its end is missing)"),
    (pickle.dumps({"weight": 1}), NO_CHECKPOINT),
    (pickle.dumps({"weight": 1}, protocol=2), TORN),
])
def test_what_is_no_checkpoint_at_all(content: bytes, words: str) -> None:
    assert words in refused(written(content))


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_make_no_reader_stumble(seed: int) -> None:
    refused(written(random.Random(seed).randbytes(1500)))


@pytest.mark.parametrize("kept", [2, 3, 50, 500, 5000, 20_000, -30, -1])
def test_a_torn_file_of_torch(kept: int) -> None:
    whole = stored(TENSORS).read_bytes()
    assert "is not a whole checkpoint of torch (its end is missing)" in refused(written(whole[:kept]))


@pytest.mark.parametrize("kept", [1, 5, 50, 500, 5000, -1])
def test_a_torn_file_of_torchs_old_format(kept: int) -> None:
    assert TORN in refused(written(stored(TENSORS, **OLD_FORMAT).read_bytes()[:kept]))


@pytest.mark.parametrize("kept", [1, 8, 50, 500, 5000, -1])
def test_a_torn_safetensors_file(kept: int) -> None:
    assert "is not a whole safetensors file (" in refused(written(save(TENSORS)[:kept], "model.safetensors"))


@pytest.mark.filterwarnings("ignore")
def test_archives_of_other_kinds() -> None:
    np.savez("arrays.npz", weight=np.zeros(3))
    assert TORN in refused(Path("arrays.npz"))
    with zipfile.ZipFile("model.pt", "w") as archive:
        archive.writestr("readme.txt", "no tensors")
    assert "file in archive is not in a subdirectory" in refused(Path("model.pt"))
    torch.jit.script(nn.Linear(2, 2)).save("scripted.pt")
    assert "is a program in TorchScript, which is not run here" in refused(Path("scripted.pt"))


@pytest.mark.parametrize("how", [{}, OLD_FORMAT], ids=["zip", "old format"])
@pytest.mark.parametrize("wrap", [lambda code: code, lambda code: {"weight": torch.zeros(2), "hook": code}],
                         ids=["alone", "among tensors"])
def test_code_in_a_checkpoint_is_told_and_does_not_run(how: dict[str, Any], wrap: Any) -> None:
    told = refused(stored(wrap(TouchesAFile(Path("touched"))), **how))
    assert "carries code (io.open) and is not opened" in told
    assert not Path("touched").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_plain_pickle_does_not_run(protocol: int) -> None:
    refused(written(pickle.dumps({"weight": TouchesAFile(Path("touched"))}, protocol=protocol)))
    assert not Path("touched").exists()


@pytest.mark.parametrize("how", [{}, OLD_FORMAT], ids=["zip", "old format"])
def test_a_whole_module_is_code(how: dict[str, Any]) -> None:
    assert "carries code (torch.nn.modules.linear.Linear)" in refused(stored(nn.Linear(2, 2), **how))


def optimizer_state() -> dict[str, Any]:
    network = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.zeros(1, 2)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize("content, words", [
    (optimizer_state(), "is an optimizer's state (opt*.pt); give the model beside it"),
    ({"arguments": {"lr": 1}, "step": 3}, "is not a bare state dict (its arguments, step are no tensors); save the"),
    ({**TENSORS, "step": 3}, "(its step is no tensor)"),
    ([torch.zeros(2)], "holds something else (list)"),
    (torch.zeros(2), "holds something else (Tensor)"),
    (None, "holds something else (NoneType)"),
    ({}, "holds nothing"),
    ({"weight": np.zeros(3)}, "carries code (numpy"),
    ({"weight": torch.eye(3).to_sparse()}, "weight is a sparse, quantised, complex or empty tensor"),
    ({"weight": torch.ones(3, dtype=torch.complex64)}, "weight is a sparse, quantised, complex or empty tensor"),
    ({"weight": torch.ones(3, device="meta")}, "weight is a sparse, quantised, complex or empty tensor"),
])
def test_checkpoints_that_are_no_bare_state_dict(content: Any, words: str) -> None:
    assert words in refused(stored(content))


@pytest.mark.filterwarnings("ignore")
def test_quantised_tensors() -> None:
    assert "weight is a sparse, quantised" in refused(stored({"weight": torch.quantize_per_tensor(torch.ones(2), .1, 0,
                                                                                                  torch.qint8)}))


def test_what_cannot_be_opened() -> None:
    Path("folder.pt").mkdir()
    assert refused(Path("folder.pt")) == "folder.pt: Is a directory."
    assert refused(Path("nowhere.pt")) == "nowhere.pt: No such file or directory."


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read() -> None:
    path = stored(TENSORS)
    path.chmod(0)
    assert refused(path) == "model.pt: Permission denied."


def the_same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == TENSORS.keys() and all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def test_a_state_dict_in_every_format() -> None:
    assert the_same(read_tensors(stored(TENSORS)))
    assert the_same(read_tensors(stored(OrderedDict(TENSORS), **OLD_FORMAT)))
    assert the_same(read_tensors(stored({name: nn.Parameter(tensor) for name, tensor in TENSORS.items()})))
    save_file(TENSORS, "model.safetensors")
    assert the_same(read_tensors(Path("model.safetensors")))
    Path("model.safetensors").rename("renamed.pt")
    assert the_same(read_tensors(Path("renamed.pt")))


def test_a_safetensors_file_whose_header_begins_like_a_web_page() -> None:
    whole = save(TENSORS)
    header = whole[8:8 + int.from_bytes(whole[:8], "little")]
    size = 0x3c20  # a blank and "<"
    path = written(size.to_bytes(8, "little") + header.ljust(size) + whole[8 + len(header):], "model.safetensors")
    assert path.read_bytes()[:2] == b" <" and the_same(read_tensors(path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_floating_point_tensor_becomes_float32(dtype: torch.dtype) -> None:
    values = torch.tensor([-2.0, 0.0, 3.0])
    assert_close(read_tensors(stored({"weight": values.to(dtype)}))["weight"], values)


def test_tensors_that_share_their_storage_or_lie_across_it() -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    found = read_tensors(stored({"row": whole[1], "across": whole.T, "whole": whole}))
    assert_close(found, {"row": whole[1], "across": whole.T, "whole": whole})
    network = nn.Linear(3, 4, device="meta")
    give_tensors(network, Path("x.pt"), {"weight": found["across"], "bias": found["row"]})
    assert_close(network(torch.ones(2, 3)), (whole.sum(0) + whole[1]).expand(2, 4))


def test_the_prefix_of_a_parallel_model_is_left_out_where_every_name_has_it() -> None:
    assert the_same(read_tensors(stored({f"module.{name}": tensor for name, tensor in TENSORS.items()})))
    assert list(read_tensors(stored({"module.a": torch.ones(1), "b": torch.ones(1)}))) == ["module.a", "b"]


def test_names_that_are_numbers() -> None:
    assert list(read_tensors(stored({0: torch.ones(1), 1: torch.ones(1)}))) == ["0", "1"]


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_tensors_lie_in_memory_as_in_the_file_which_is_mapped_not_copied(name: str) -> None:
    tensors = {str(i): torch.full((50_000,), float(i + 1)) for i in range(4)}
    torch.save(tensors, name) if name.endswith(".pt") else save_file(tensors, name)
    content, found = Path(name).read_bytes(), read_tensors(Path(name))
    places = {content.index(tensor.numpy().tobytes()) - tensor.data_ptr() for tensor in found.values()}
    assert len(places) == 1


def test_a_network_is_given_the_tensors_themselves_and_is_frozen() -> None:
    network, tensors = nn.Linear(3, 4, device="meta"), {"weight": torch.ones(4, 3), "bias": torch.ones(4)}
    give_tensors(network, Path("x.pt"), tensors)
    assert network.weight.data_ptr() == tensors["weight"].data_ptr()
    assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())
    with pytest.raises(UserError, match="x.pt does not fit its configuration: 1 missing tensor, such as bias"):
        give_tensors(network, Path("x.pt"), {"weight": tensors["weight"]})


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool])
def test_weights_of_whole_numbers_are_refused_by_name(dtype: torch.dtype, name: str) -> None:
    tensors = {"weight": torch.ones(4, 3), "bias": torch.ones(4).to(dtype)}
    torch.save(tensors, name) if name.endswith(".pt") else save_file(tensors, name)
    with pytest.raises(UserError, match=f"^{name}: bias is of {dtype}, and weights are floating point numbers; save"):
        give_tensors(nn.Linear(3, 4, device="meta"), Path(name), read_tensors(Path(name)))


def test_a_count_of_batches_is_a_whole_number_and_stays_one() -> None:
    network = nn.BatchNorm1d(3)
    give_tensors(network, Path("x.pt"), read_tensors(stored(network.state_dict())))
    assert network.num_batches_tracked.dtype == torch.int64


def test_a_float_that_torch_cannot_read_is_named() -> None:
    odd = torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    assert "weight is of torch.float4_e2m1fn_x2, which cannot be read; save" in refused(stored({"weight": odd}))
