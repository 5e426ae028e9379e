"""python -m benchmarks.prepare [--rows N] [--folder DIR]: mode=prepare on AM-Thinking rows, beside a bare copy of them.

Makes N rows (1,000,000) of 1 to 2 kB in six subsets, each with other fields, as JSON lines in a temporary folder (they
are removed at the end): 2 % of them repeat an earlier row, 1 % have a broken trace, a few ask an evaluation question.
Then `python main.py mode=prepare` runs on them in a process of its own: all checks, deduplication, decontamination
against 500 questions, card. The bare copy reads the same files with `datasets`' JSON reader (one file at a time, since
the subsets differ) and writes the conversations with pyarrow; there, no row becomes a Python object. `ratio` is our
rows a second by the bare copy's. Peak memory is the process's largest resident set. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

SUBSETS = ("math", "code", "science", "if", "multiturn", "chat")
QUESTIONS = 500
SAMPLE_S = 0.1  # between two looks at a process's memory
SAMPLES = 4000  # sentences that texts are made of


def words_of(rng: random.Random, count: int) -> str:
    """`count` made-up words."""
    return " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(count))


def row_of(rng: random.Random, subset: str, sentences: list[str], number: int) -> dict[str, Any]:
    """One row as its subset publishes it."""
    question = f"{rng.choice(sentences)} {rng.choice(sentences)} Case {number}?"
    thought = " ".join(rng.choices(sentences, k=rng.randint(8, 18)))
    answer = f"<think>{thought}</think><answer>{rng.choice(sentences)}</answer>"
    if rng.random() < 0.01:
        answer = rng.choice([f"<think>{thought}", f"<think>{thought}</think><answer></answer>"])
    human: dict[str, Any] = {"from": "human", "value": question}
    assistant: dict[str, Any] = {"from": "assistant", "value": answer}
    if subset == "multiturn":
        earlier = [human, {"from": "assistant", "value": rng.choice(sentences)}]
        return {"conversations": [*earlier, {"from": "human", "value": rng.choice(sentences)}, assistant]}
    if subset in ("math", "science"):
        assistant["info"] = {"answer_content": str(number), "score": rng.random()}
        return {"system": "You are a helpful assistant.", "conversations": [human, assistant]}
    if subset == "code":
        human["info"] = {"test_case": json.dumps({"inputs": [str(number)]}), "ground_truth": None}
        return {"conversations": [human, assistant], "source": "made"}
    return {"conversations": [human, assistant], "info": {"lang": "en", "turns": 1}}


def make(folder: Path, rows: int) -> None:
    """The subsets as JSON lines and the evaluation's questions."""
    rng = random.Random(0)
    sentences = [words_of(rng, rng.randint(8, 20)).capitalize() + "." for _ in range(SAMPLES)]
    asked = [words_of(rng, 40) for _ in range(QUESTIONS)]
    (folder / "questions.jsonl").write_text("".join(json.dumps({"problem": q}) + "\n" for q in asked))
    (folder / "am").mkdir()
    for index, subset in enumerate(SUBSETS):
        with open(folder / "am" / f"{subset}.jsonl", "w", encoding="utf-8") as file:
            line = ""
            for number in range(rows * index // len(SUBSETS), rows * (index + 1) // len(SUBSETS)):
                if not line or rng.random() >= 0.02:
                    row = row_of(rng, subset, sentences, number)
                    if number % 5000 == 7:
                        row["conversations"][0]["value"] = f"Please: {rng.choice(asked)}"
                    line = json.dumps(row) + "\n"
                file.write(line)


def measured(command: list[str], log: Path) -> tuple[float, float]:
    """(seconds, peak MB resident) of a command; its output goes to `log`."""
    started, peak = time.perf_counter(), 0.0
    with open(log, "w", encoding="utf-8") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            watched = psutil.Process(process.pid)
            while process.poll() is None:
                try:
                    tree = [watched, *watched.children(recursive=True)]
                    peak = max(peak, sum(p.memory_info().rss for p in tree) / 2**20)
                except psutil.NoSuchProcess:
                    break
                time.sleep(SAMPLE_S)
        finally:
            if process.poll() is None and sys.exc_info()[0] is not None:
                process.kill()
            process.wait()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()}")
    return time.perf_counter() - started, peak


def bare(source: Path, target: Path) -> None:
    """In a process of its own: the conversations of all files, read by datasets and written by pyarrow."""
    import datasets
    import pyarrow.parquet as pq

    for file in sorted(source.glob("*.jsonl")):
        rows = datasets.load_dataset("json", data_files=[str(file)], split="train", streaming=True)
        writer = None
        for table in rows.with_format("arrow").iter(batch_size=1000):
            table = table.select(["conversations"])
            writer = writer or pq.ParquetWriter(target / f"{file.stem}.parquet", table.schema, compression="zstd")
            writer.write_table(table)
        writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", help="where to make the temporary folder (about 6 kB a row)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="prepare-", dir=options.folder) as name:
        folder = Path(name)
        make(folder, options.rows)
        size = sum(file.stat().st_size for file in (folder / "am").iterdir())
        print(f"{options.rows} rows, {size / options.rows:.0f} bytes each, in {len(SUBSETS)} subsets", flush=True)
        print(json.dumps(compare(folder, options.rows)))


def compare(folder: Path, rows: int) -> dict[str, float]:
    """The figures of the last line."""
    root, log = Path(__file__).resolve().parent.parent, folder / "log"
    words = ["mode=prepare", "prepare.source=am_thinking", f"prepare.input=[{folder}/am]",
             f"prepare.output={folder}/out", f"prepare.against=[{folder}/questions.jsonl]"]
    os.environ["HF_HUB_OFFLINE"] = "1"
    seconds, peak = measured([sys.executable, str(root / "main.py"), *words], log)
    print(log.read_text().rstrip())
    card = json.loads((folder / "out" / "card.json").read_text())
    if card["splits"]["train"]["read"] != rows or sum(card["splits"]["train"]["outcomes"].values()) != rows:
        raise SystemExit(f"rows were lost: {card['splits']['train']}")
    shutil.rmtree(folder / "out")
    (folder / "bare").mkdir()
    program = f"from pathlib import Path; from benchmarks.prepare import bare; bare(Path({str(folder / 'am')!r}), " \
              f"Path({str(folder / 'bare')!r}))"
    bare_seconds, bare_peak = measured([sys.executable, "-c", program], log)
    print(f"mode=prepare {rows / seconds:8.0f} rows/s, at most {peak:5.0f} MB resident, {seconds:.0f} s")
    print(f"bare copy    {rows / bare_seconds:8.0f} rows/s, at most {bare_peak:5.0f} MB resident, {bare_seconds:.0f} s")
    return {"rows_per_s": round(rows / seconds), "peak_rss_mb": round(peak), "ratio": round(bare_seconds / seconds, 2)}


if __name__ == "__main__":
    main()
