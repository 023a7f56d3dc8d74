# Copyright 2026 The diffusers-difftune authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
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
