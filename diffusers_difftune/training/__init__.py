# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Training: the trainers, batches, checkpoints, callbacks, and the processes of a run."""
