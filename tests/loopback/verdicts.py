"""What a test of several things that may not all be there says of each, and its exit code."""


class Verdicts:
    def __init__(self) -> None:
        self.passed = self.failed = self.skipped = 0

    def skip(self, what: str, why: str) -> None:
        self.skipped += 1
        print(f"skipped: {what}: {why}")

    def judge(self, what: str, wrong: list[str]) -> None:
        self.failed += bool(wrong)
        self.passed += not wrong
        print(f"{'FAILED' if wrong else 'passed'}: {what}")
        for fault in wrong:
            print(f"  {fault}")

    def exit_code(self) -> int:
        """Where nothing could be had, nothing was shown."""
        print(f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped")
        return int(self.failed > 0 or self.passed == 0)
