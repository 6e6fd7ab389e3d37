"""How fast records are read, and in how much memory.

    .venv/cpu/bin/python benchmarks/data_speed.py [--records 20000 200000]

Each measurement is a process of its own, which reads a file of the standard form with four frames or a file of
conversations with one picture, as a job and `submit` do: CPU seconds without the interpreter's start, and the most
memory that the whole process took. The second rank of a node reads the index that the first one left.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT_DIR = Path(__file__).resolve().parent.parent
PNG = bytes.fromhex("89504e470d0a1a0a")
CONTEXT = "You are in a game; choose the button that brings you to the goal. " * 4
# Prints CPU seconds and the process's peak memory in MiB.
READ = """
import resource, sys, time
from trainer.data.records import load_dataset
from trainer.data.shared import _index, _write, read_index
from pathlib import Path
index = Path(sys.argv[1] + ".index")
start = time.process_time()
dataset = read_index(index) if sys.argv[2] == "index" else load_dataset(sys.argv[1])
print(time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)
if sys.argv[2] != "index":
    _write(index, _index(dataset))
"""


def record(number: int, form: str) -> dict[str, object]:
    picture, text = f"{number % 50}.png", f"{CONTEXT}{number}"
    answer = json.dumps({"button": ("up", "down", "left")[number % 3]})
    about = {"metadata": {"session_id": f"walk-{number // 20}"}}
    if form == "flat":
        return {"frames": [picture] * 4, "context": text, "question": "Which button?", "output": answer, **about}
    turns = [{"role": "user", "content": f"<image>{text}"}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "images": [picture], **about}


def measure(path: Path, how: str) -> tuple[float, float]:
    """(CPU seconds, MiB)."""
    words = [sys.executable, "-c", READ, str(path), how]
    said = subprocess.run(words, cwd=PROJECT_DIR, check=True, capture_output=True, text=True).stdout.split()
    return float(said[0]), float(said[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[20_000, 200_000])
    counts = parser.parse_args().records
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}\n")
    print("| records | form | file, MB | CPU s | peak MiB | second rank: CPU s |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for number in range(50):
            Path(folder, f"{number}.png").write_bytes(PNG)
        for count in counts:
            for form in ("flat", "messages"):
                path = Path(folder, f"{form}.jsonl")
                with path.open("w") as file:
                    file.writelines(json.dumps(record(number, form)) + "\n" for number in range(count))
                (seconds, memory), (index_s, _) = measure(path, "files"), measure(path, "index")
                size = path.stat().st_size / 1e6
                print(f"| {count:,} | {form} | {size:.0f} | {seconds:.1f} | {memory:.0f} | {index_s:.1f} |", flush=True)


if __name__ == "__main__":
    main()
