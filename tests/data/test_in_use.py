# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
import shutil
import threading
import time

from diffusers_difftune.data.cache.in_use import hold, nobody_else


def test_a_folder_that_is_held_is_not_had_alone(tmp_path):
    first, second = hold(tmp_path / "a"), hold(tmp_path / "a")
    for holder in (first, second):
        with nobody_else(tmp_path / "a") as alone:
            assert not alone
        holder.close()
    with nobody_else(tmp_path / "a") as alone:
        assert alone
    with nobody_else(tmp_path / "nowhere") as alone:
        assert not alone


def test_who_waits_for_a_folder_that_is_removed_gets_a_new_one(tmp_path):
    folder, held = tmp_path / "a", []
    hold(folder).close()
    with nobody_else(folder) as alone:
        assert alone
        waiting = threading.Thread(target=lambda: held.append(hold(folder)))
        waiting.start()
        time.sleep(0.1)
        assert not held
        shutil.rmtree(folder)
    waiting.join()
    assert folder.is_dir()
    with nobody_else(folder) as alone:
        assert not alone, "the new folder is held"
    held[0].close()
