"""`python -m tests.robustness.media_matrix [words]`: every case whose name has all the words, one line each."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.robustness.media_matrix.cases import cases
from tests.robustness.media_matrix.checks import examine
from tests.support.media_oracle import source
from workers.media.probing import ProbePool


def main(words: list[str]) -> int:
    """Prints what comes out of each; the number of cases that came out wrong or could not be made. Where no case has
    the words, that is one, too."""
    failed = total = 0
    with tempfile.TemporaryDirectory(prefix="matrix-") as folder, ProbePool(1) as pool:
        made = source(Path(folder))
        for number, (name, build) in enumerate(cases()):
            if not all(word in name for word in words):
                continue
            total += 1
            place = Path(folder) / str(number)
            place.mkdir()
            try:
                path, right = build(made, place)
            except AssertionError as error:
                failed += 1
                print(f"WRONG  {name}: cannot be made: {str(error).strip().splitlines()[-1:]}", flush=True)
                continue
            line, wrong = examine(path, right, pool)
            failed += bool(wrong)
            print(f"{'WRONG' if wrong else 'right'}  {name}: {line}", *wrong[:6], sep="\n         ", flush=True)
    print(f"{total - failed} of {total} right" if total else f"no case has all of: {' '.join(words)}")
    return failed if total else 1


if __name__ == "__main__":
    sys.exit(min(1, main(sys.argv[1:])))
