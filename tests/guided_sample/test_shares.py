"""Which samples are a process's own."""
from __future__ import annotations

import pytest
import torch

from guided_sample.shares import Share, share_of
from noisy_clf.errors import UserError
from noisy_clf.execution import pick_device
from tests.commands import assert_refused, run

TORCHRUN = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}
SRUN = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "0"}
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}  # of which srun starts the tasks
ARRAY = {"SLURM_ARRAY_TASK_ID": "14", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_COUNT": "5", "SLURM_ARRAY_TASK_STEP": "2"}


@pytest.mark.parametrize("asked, environ, share", [
    (None, {}, (1, 1)), ("2/3", {}, (2, 3)), (" 1 / 1 ", {}, (1, 1)),
    (None, TORCHRUN, (3, 4)), (None, SRUN, (3, 4)), (None, SRUN | TORCHRUN | {"RANK": "0"}, (1, 4)),
    (None, {"RANK": "0", "WORLD_SIZE": "1"} | SRUN, (3, 4)), (None, BATCH_SCRIPT, (1, 1)),
    (None, ARRAY, (1, 1)), ("slurm", ARRAY, (3, 5)), ("SLURM", ARRAY | {"SLURM_ARRAY_TASK_ID": "10"}, (1, 5)),
    ("slurm", ARRAY | SRUN, (11, 20)), ("slurm", ARRAY | TORCHRUN, (11, 20)), ("2/3", TORCHRUN, (7, 12)), ("2/3", SRUN, (2, 3)),
])
def test_a_processs_share(asked, environ, share):
    found = share_of(asked, environ)
    assert (found.number, found.count) == share
    assert found.talks == (found.number == 1 or found.by.startswith("--shard"))


@pytest.mark.parametrize("asked, environ, told", [
    ("0/2", {}, "'0/2' is no share; give one as I/N, counted from 1"), ("3/2", {}, "'3/2' is no share"), ("x", {}, "'x' is no"),
    ("1/0", {}, "'1/0' is no share"), ("-1/2", {}, "'-1/2' is no share"), ("1/2/3", {}, "'1/2/3' is no"), ("", {}, "'' is no"),
    ("slurm", SRUN, "SLURM_ARRAY_TASK_ID is not set; give --shard I/N, or leave it out"),
    ("slurm", ARRAY | {"SLURM_ARRAY_TASK_ID": "13"}, "task 13 of an array of 5 from 10 on is no share; number the tasks"),
    ("slurm", ARRAY | {"SLURM_ARRAY_TASK_ID": "20"}, "task 20 of an array of 5"),
    (None, TORCHRUN | {"RANK": "4"}, "RANK is 4 and WORLD_SIZE is 4, which is no process of torchrun's"),
    (None, {"WORLD_SIZE": "4"}, "RANK is '', and torchrun sets it to a number"),
    (None, SRUN | {"SLURM_PROCID": "a"}, "SLURM_PROCID is 'a', and srun sets it to a number"),
])
def test_what_is_no_share_is_refused(asked, environ, told):
    with pytest.raises(UserError) as error:
        share_of(asked, environ)
    assert told in str(error.value)


def test_the_command_refuses_it_as_it_does_other_bad_options(denoiser_folder):
    result = run("--model", denoiser_folder, "--shard", "3/2")
    assert_refused(result, "Invalid value for '--shard': '3/2' is no share")
    assert result.exit_code == 2


@pytest.mark.parametrize("total, block, size", [(100, 64, 64), (100, 8, 8), (23, 4, 3), (5, 64, 4), (1, 1, 1)])
def test_for_any_number_of_processes_batches_are_the_same_and_each_is_ones_own(total, block, size):
    alone = Share().batches(total, block, size)
    assert [i for batch in alone for i in batch] == list(range(total)) and max(map(len, alone)) <= size
    for count in (2, 3, 7):
        shared = [Share(number, count).batches(total, block, size) for number in range(1, count + 1)]
        assert sorted((batch for share in shared for batch in share), key=lambda batch: batch.start) == alone
        assert all(batch.start // block % count == number for number, share in enumerate(shared) for batch in share)


@pytest.mark.parametrize("environ, device", [
    ({"LOCAL_RANK": "1"}, "cuda:1"), ({"SLURM_LOCALID": "3"}, "cuda:1"), ({"SLURM_LOCALID": "0"}, "cuda:0"),
    ({"SLURM_LOCALID": "3", "LOCAL_RANK": "0"}, "cuda:0"), ({}, "cuda")])
def test_each_process_takes_a_gpu_of_its_own(environ, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert pick_device("auto") == pick_device("cuda") == torch.device(device)
