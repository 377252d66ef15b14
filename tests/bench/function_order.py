"""Reads what `llvm-profdata show --all-functions --counts` says of each function, and prints the symbols of those that ran, those
that ran most often first: the linker puts them side by side, so that fewer pages of the program are ever touched.
`profile-guided` starts it."""
import re
import sys

# A function that its module keeps to itself is named behind the module's name and a semicolon.
NAME = re.compile(r"^  (?:[^ ].*;)?([^ ;]+):$")
COUNTS = re.compile(r"^    Block counts: \[(.*)\]$")


def functions(lines):
    """Symbol and greatest count of each function that ran."""
    name = None
    for line in lines:
        if found := NAME.match(line):
            name = found[1]
        elif name and (found := COUNTS.match(line)):
            most = max((int(count) for count in found[1].split(", ") if count), default=0)
            if most:
                yield name, most
            name = None


def main():
    ran = sorted(functions(sys.stdin), key=lambda function: -function[1])
    if not ran:
        sys.exit("error: no function has run, by what llvm-profdata says")
    for name, _ in ran:
        print(name)


if __name__ == "__main__":
    main()
