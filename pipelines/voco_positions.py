"""Does a VoCo run know where things are in patients it has never seen? Accuracy against chance, with an interval.

SOURCE is a run of VoCo or VoCoOmni that left out the split's test patients; OUT a JSON file with every patient's
accuracy. A run whose accuracy is not clearly above chance has learnt textures or nothing, but no positions.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path


def main() -> None:
    """Draw crops of held-out patients, ask where they lie, print and keep the answer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", type=Path, help="run of VoCo or VoCoOmni")
    parser.add_argument("out", type=Path, help="JSON file for the result")
    parser.add_argument("--cohort", type=Path, help="prepared cohort; by default the first one of the run")
    parser.add_argument("--split", default="default", help="whose test patients are asked about")
    parser.add_argument("--draws", type=int, default=4, help="of each recording")
    given = parser.parse_args()
    from medssl.errors import MedSSLError

    try:
        run(given)
    except MedSSLError as error:
        sys.exit(str(error))


def run(given: argparse.Namespace) -> None:
    """One call, and its result as a file."""
    from medssl.evaluation.positions import position_accuracy
    from medssl.training.run import read_config, write_json

    cohort = given.cohort or Path(read_config(given.source)["cohort"][0])
    found = position_accuracy(given.source, cohort, split=given.split, draws=given.draws)
    write_json(given.out, {"run": given.source.name, "split": given.split, **dataclasses.asdict(found)})
    print(found)


if __name__ == "__main__":
    main()
