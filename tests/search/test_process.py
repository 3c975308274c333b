"""The sampler process leaves without a word when its server is gone."""

import subprocess
import sys


def test_it_says_nothing_when_nobody_reads_its_answer() -> None:
    command = [sys.executable, "-P", "-m", "tuner.search.process"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.stdin.write(b"{}\n")
    process.stdin.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == b""
    process.stderr.close()
