"""What grows with the number of documents, pairs, processes and servers: `python benchmarks/scaling.py [--full]`.

Runs four benchmarks one after the other, each of which can also be run alone and has options of its own:

    python benchmarks/scaling_synth.py       # a folder of documents: memory, a kill, ranks, a fleet of servers
    python benchmarks/dedup.py --pairs 1000 --no-reference --sizes 1000 10000 100000
    python benchmarks/scaling_builder.py     # rows from many documents, num_proc 1 and 2
    python benchmarks/scaling_online.py      # seconds per step on one and two processes, and what they are spent on

With --full: 10,000 documents of 100 kB (1 GB), a million pairs, 100,000 documents. Takes about half an hour of CPU
time, 3 GB of disk and 6 GB of memory.
"""

import argparse
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
SMALL = {
    "scaling_synth": "",
    "dedup": "--no-reference --pairs 1000 --sizes 1000 10000",
    "scaling_builder": "",
    "scaling_online": "",
}
FULL = {
    "scaling_synth": "--documents 10000 --kilobytes 100 --prose 6 --sections 2",
    "dedup": "--no-reference --pairs 1000 --sizes 10000 100000 1000000",
    "scaling_builder": "--documents 1000 100000 --pairs 2",
    "scaling_online": "--steps 8",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the large sizes")
    options = parser.parse_args()
    for name, arguments in (FULL if options.full else SMALL).items():
        print(f"\n== {name}.py {arguments}", flush=True)
        subprocess.run([sys.executable, FOLDER / f"{name}.py", *arguments.split()], check=True)


if __name__ == "__main__":
    main()
