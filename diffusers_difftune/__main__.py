# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m diffusers_difftune` is the command `difftune`."""

from .cli import main


if __name__ == "__main__":
    raise SystemExit(main())
