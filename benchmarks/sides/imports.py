"""CPU time of a fresh process to import a module."""

from __future__ import annotations

import argparse
import importlib
import time

from common import give


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module")
    module = parser.parse_args().module
    begin = time.process_time()
    importlib.import_module(module)
    give({"side": module, "seconds": time.process_time() - begin})


if __name__ == "__main__":
    main()
