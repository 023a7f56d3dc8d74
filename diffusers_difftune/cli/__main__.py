# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m diffusers_difftune.cli`, which `accelerate launch -m` needs."""

import sys

from . import main


if __name__ == "__main__":
    sys.exit(main())
