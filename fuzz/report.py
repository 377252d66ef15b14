"""report.py SECONDS LOGS [--write] TARGET...: the table of a run of the fuzz targets, from what libFuzzer has logged in
LOGS/TARGET.log; printed, and with --write put into docs/data-path.md. What a target reads is the first line of its source."""
import argparse
import pathlib
import re

FUZZ = pathlib.Path(__file__).resolve().parent
DOCUMENT = FUZZ.parent / "docs/data-path.md"
BEGIN, END = "<!-- fuzz: written by make fuzz WRITE=1 -->", "<!-- fuzz: end -->"


def figures(log):
    """Executions, edges covered and what was found, of one target.

    >>> figures("#2\\tINITED cov: 7 ft: 9\\n#435626\\tDONE   cov: 814 ft: 9 corp: 2/3b\\nstat::number_of_executed_units: 435626\\n")
    (435626, 814, 'none')
    >>> figures("#9\\tNEW    cov: 12 ft: 9\\nSUMMARY: libFuzzer: deadly signal\\nstat::number_of_executed_units: 10\\n")
    (10, 12, 'deadly signal')
    >>> figures("")
    (0, 0, 'it did not begin')
    """
    executions = re.findall(r"^stat::number_of_executed_units:\s*(\d+)", log, re.M)
    edges = re.findall(r"\bcov: (\d+)", log)
    found = re.search(r"^SUMMARY: libFuzzer: (.*)", log, re.M)
    fault = found[1] if found else "none" if re.search(r"^#\d+\s+DONE\b", log, re.M) else "it did not end" if edges else "it did not begin"
    return int(executions[-1]) if executions else 0, int(edges[-1]) if edges else 0, fault


def table(seconds, logs, targets):
    head = [f"Each target for {seconds:,} seconds:", "", "| Target | Input | Executions | Edges covered | Faults |", "|---|---|---|---|---|"]
    rows = []
    for target in targets:
        log = logs / f"{target}.log"
        executions, edges, fault = figures(log.read_text(errors="replace") if log.exists() else "")
        says = (FUZZ / "targets" / f"{target}.rs").read_text().splitlines()[0].removeprefix("//! ")
        rows.append(f"| `{target}` | {says} | {executions:,} | {edges:,} | {fault} |")
    return "\n".join(head + rows)


def main():
    parser = argparse.ArgumentParser(prog="report.py")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("seconds", type=int)
    parser.add_argument("logs", type=pathlib.Path)
    parser.add_argument("targets", nargs="+")
    arguments = parser.parse_args()
    text = table(arguments.seconds, arguments.logs, arguments.targets)
    print(text)
    if arguments.write:
        before, rest = DOCUMENT.read_text().split(BEGIN, 1)
        DOCUMENT.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}")


if __name__ == "__main__":
    main()
