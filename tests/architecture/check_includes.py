"""Fails on an include that goes up the house: a room may include only rooms declared before it in CMakeLists.txt
(which also excludes cycles), and no room may include the program."""

import re
import sys
from pathlib import Path

root = Path(sys.argv[1])
rooms = re.findall(r"^tutti_room\((\w+)", (root / "CMakeLists.txt").read_text(), re.M) + ["cli"]
problems = []
checked = 0
for file in sorted((root / "src").rglob("*")):
    if file.suffix not in {".h", ".cpp", ".inc", ".cu"}:
        continue
    room = file.relative_to(root / "src").parts[0]
    if room not in rooms:
        problems.append(f"{file.relative_to(root)}: room {room} is not declared in CMakeLists.txt")
        continue
    checked += 1
    for number, line in enumerate(file.read_text().splitlines(), 1):
        match = re.match(r'\s*#\s*include\s+"([^"/]+)/', line)
        if not match or match[1] == room or not (root / "src" / match[1]).is_dir():
            continue
        if match[1] not in rooms or rooms.index(match[1]) > rooms.index(room):
            problems.append(f"{file.relative_to(root)}:{number}: {room} includes {match[1]}, which comes after it")
for problem in problems:
    print(problem)
print(f"{checked} files checked, {len(problems)} problems")
sys.exit(1 if problems or checked == 0 else 0)
