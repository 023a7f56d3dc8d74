# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The process of [`HubClient`]: reads a program and its arguments from each line of standard input, runs it, and writes a line
with what it printed and the seconds it was to sleep."""

import io
import json
import logging
import sys
import time
import traceback
from contextlib import redirect_stdout


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    waits: list[float] = []
    time.sleep = waits.append  # type: ignore[assignment]
    for line in sys.stdin:
        program, arguments = json.loads(line)
        waits.clear()
        sys.argv = ["", *arguments]
        printed = io.StringIO()
        with redirect_stdout(printed):
            try:
                exec(program, {"__name__": "__main__"})
            except BaseException:
                traceback.print_exc(file=printed)
        print(json.dumps([printed.getvalue(), waits]), flush=True)


if __name__ == "__main__":
    main()
