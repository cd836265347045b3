"""Prints the slowest build steps of a Ninja build folder, from its log: python3 slowest_files.py BUILD [N]"""

import sys
from pathlib import Path


def main() -> None:
    log = Path(sys.argv[1]) / ".ninja_log"
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    seconds = {}
    for line in log.read_text().splitlines()[1:]:
        start, end, _, output, *_ = line.split("\t")
        seconds[output] = (int(end) - int(start)) / 1000
    print(f"the {count} slowest build steps, in seconds")
    for output, taken in sorted(seconds.items(), key=lambda item: -item[1])[:count]:
        print(f"{taken:7.1f}  {output}")


main()
