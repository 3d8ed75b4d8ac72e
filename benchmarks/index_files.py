"""The time and the memory that a long index file takes. The claim: 4 s and 500 MB for five
million positions, 15 s and 1 GB for as many names.

    python -m benchmarks.index_files

Every file is read in a new process, whose memory before the file is read is not counted. The time
is that of the processor.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

NUMBER = 5_000_000
READ = """
import re, sys, time
from pathlib import Path
from cyclical_jax.data import index_files

def peak():  # in MB; `resource` would tell that of the parent
    return int(re.search("VmHWM:(.*)kB", Path("/proc/self/status").read_text())[1]) / 1e3

before, start = peak(), time.process_time()
try:
    index_files.read(sys.argv[1])
except ValueError as error:
    print(error, end=": ")
print(f"{time.process_time() - start:.1f} s, {peak() - before:,.0f} MB")
"""


def main():
    order = np.random.default_rng(0).permutation(NUMBER)
    files = {
        "positions": "\n".join(map(str, order)),
        "names and labels": "".join(
            f"train/n{place % 1000:08d}/n{place % 1000:08d}_{place}.JPEG {place % 1000}\n"
            for place in order
        ),
        "a repeated position": "\n".join(map(str, order)) + f"\n{order[7]}\n",
        "a word of 50 MB": "x" * 50_000_000,
    }
    with tempfile.TemporaryDirectory() as folder:
        for what, text in files.items():
            path = Path(folder, "subset.txt")
            path.write_text(text)
            done = subprocess.run(
                [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True
            )
            print(f"{what:>20}: {done.stdout.strip()}")


if __name__ == "__main__":
    main()
