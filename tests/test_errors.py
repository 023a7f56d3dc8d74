# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""How a mistake carries its flag, and how it reads."""

import pickle

import pytest
import torch

from diffusers_difftune import errors
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.publishing.client import UploadError


@pytest.mark.parametrize(
    ("sentence", "flag", "told"),
    [
        ("There is no folder x.", None, "There is no folder x."),
        ("There is no folder x.", "--train_data_dir", "--train_data_dir: there is no folder x."),
        ("A label is missing.", "DATA", "DATA: a label is missing."),
        ("VAE and UNet differ.", "--vae", "--vae: VAE and UNet differ."),
        ("DiTPipeline works otherwise.", "--model", "--model: DiTPipeline works otherwise."),
        ("Icons/x.png is damaged.", "--train_data_dir", "--train_data_dir: Icons/x.png is damaged."),
        ("--seed is -1; it must be at least 0.", "--seed", "--seed is -1; it must be at least 0."),
        ("a\nb\x1b[31m", "--x\ny", "--x\\ny: a\\nb\\x1b[31m"),
    ],
)
def test_the_flag_comes_first(sentence, flag, told):
    error = DiffTuneError(sentence, flag)
    assert str(error) == told and error.flag == flag
    assert str(pickle.loads(pickle.dumps(error))) == told, "another process reads the same"


def test_another_process_reads_what_a_subclass_says():
    error = UploadError("The disk is full.", "folder", "user/repo")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and again.exit_code == 3 and again.why == error.why


def test_the_innermost_flag_is_kept():
    with pytest.raises(DiffTuneError, match="^--inner: this is wrong.$") as caught:
        with errors.flag("--outer"), errors.flag("--inner"):
            raise DiffTuneError("This is wrong.")
    assert caught.value.flag == "--inner" and caught.value.sentence == "This is wrong."
    with pytest.raises(DiffTuneError, match="^--seed is -1; it must be at least 0.$"), errors.flag("--output_dir"):
        raise DiffTuneError("--seed is -1; it must be at least 0.")
    with pytest.raises(KeyError, match="other"), errors.flag("--outer"):
        raise KeyError("other")


class Broken(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, row: int) -> None:
        with errors.flag("--skip_bad_images"):
            raise DiffTuneError("There are no rows.")


def test_the_worker_of_a_data_loader_hands_over_the_sentence_alone():
    with pytest.raises(DiffTuneError) as caught, errors.flag("--skip_bad_images"):
        next(iter(torch.utils.data.DataLoader(Broken(), num_workers=1)))
    assert str(caught.value) == "--skip_bad_images: there are no rows."
