"""All 150,000 reviews of NSMC, from a TSV file to checked rows; with `--pandas`, to frames of pandas and no further.

CPU time of a fresh process, with what it imports to read.
"""

from __future__ import annotations

import argparse
import csv
import resource
import time

from common import NSMC, give

ROWS = 10_000


def ours() -> int:
    """Rows with their lines, labels and ids."""
    from kobert_core.tasks.labelled_texts.columns import Columns
    from kobert_core.tasks.labelled_texts.rows import row_chunks
    from kobert_core.tasks.text_classification.targets import ClassIndices

    return sum(
        len(rows) for rows in row_chunks(NSMC, columns=Columns(text="document"), targets=ClassIndices("01", "label"))
    )


def with_pandas() -> int:
    """Strings alone: no label, id or text is checked."""
    import pandas

    how = {"sep": "\t", "quoting": csv.QUOTE_NONE, "lineterminator": "\n", "dtype": str, "keep_default_na": False}
    return sum(len(frame) for frame in pandas.read_csv(NSMC, chunksize=ROWS, **how))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pandas", action="store_true")
    given = parser.parse_args()
    begin = time.process_time()
    rows = with_pandas() if given.pandas else ours()
    seconds = time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    give({"side": "pandas" if given.pandas else "ours", "items": rows, "seconds": seconds, "peak_megabytes": peak})


if __name__ == "__main__":
    main()
