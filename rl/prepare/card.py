"""The card of a prepared folder: what was read, what became of it, what is in it. card.json, and card.md for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rl.prepare.finish import records_of
from rl.prepare.overlap import COMMON, Overlap
from rl.prepare.pipeline import OUTCOMES
from rl.prepare.steps import Steps

QUANTILES = (0.5, 0.9, 0.99, 1.0)
TOKEN_SAMPLE = 256  # rows whose tokens are counted
SHOWN_REASONS = 20


def split_card(steps: Steps, split: str, files: Sequence[str], chosen: Sequence[np.ndarray], heldout: int
               ) -> dict[str, Any]:
    """What became of the rows of a split, and the sizes of those that are in its files; `heldout` are in others."""
    records = records_of(steps, split)
    counts: Counter[str] = sum((record.counts for record in records), Counter())
    kept = [{name: values[mask] for name, values in steps.arrays(record).items() if name in ("group", "question",
            "answer")} for record, mask in zip(records, chosen)]
    rows = sum(len(part["group"]) for part in kept)
    outcomes = {name: counts[name] for name in OUTCOMES if counts[name]}
    outcomes["kept"] = rows
    outcomes |= {"held out": heldout} if heldout else {}
    if counts["kept"] > rows + heldout:
        outcomes["not sampled"] = counts["kept"] - rows - heldout
    return {
        "files": list(files),
        "rows": rows,
        "kind": next((record.kind for record in records if record.kind), ""),
        "read": counts["read"],
        "outcomes": outcomes,
        "groups": _groups(records, kept),
        "chars": {name: _lengths(kept, name) for name in ("question", "answer")},
        "reasons": dict(sum((r.reasons for r in records), Counter()).most_common(SHOWN_REASONS)),
        "renamed": dict(sum((r.renamed for r in records), Counter())),
        "overlaps": dict(sum((r.overlaps for r in records), Counter())),
        "inputs": _inputs(records),
    }


def _groups(records: Sequence[Any], kept: Sequence[dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    rows: Counter[tuple[str, str]] = Counter()
    for record, part in zip(records, kept):
        for index, count in zip(*np.unique(part["group"], return_counts=True)):
            rows[tuple(record.groups[index])] += int(count)
    return [{"name": name, "domain": domain, "rows": count} for (name, domain), count in sorted(rows.items())]


def _lengths(kept: Sequence[dict[str, np.ndarray]], name: str) -> dict[str, float]:
    values = np.concatenate([np.zeros(0, np.uint32), *(part[name] for part in kept)])
    if not len(values):
        return {}
    named = {f"p{round(100 * q)}": int(value) for q, value in zip(QUANTILES, np.quantile(values, QUANTILES))}
    return {"mean": round(float(values.mean()), 1), **named, "total": int(values.sum(dtype=np.uint64))}


def _inputs(records: Sequence[Any]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        entry = found.setdefault(record.input, {"name": record.input, "rows": 0, "kept": 0})
        entry["rows"] += record.counts["read"]
        entry["kept"] += record.counts["kept"]
    return list(found.values())


def evaluation_card(overlap: Overlap, ngram: int, matches: dict[str, int]) -> dict[str, Any]:
    """What the training rows were compared with, and how many shared words with each set."""
    sets = {name: {"questions": count, "matched rows": matches.get(name, 0)}
            for name, count in sorted(overlap.questions.items())}
    return {"ngram": ngram, "common runs of words left out": overlap.common, "common": COMMON, "sets": sets}


def token_lengths(paths: Sequence[Path], tokenizer: str) -> dict[str, Any]:
    """Tokens of whole rows, by a tokenizer of this machine, measured on rows spread over the files."""
    from tokenizers import Tokenizer  # and not transformers, which takes seconds to import

    path = Path(tokenizer).expanduser() / "tokenizer.json"
    if not path.is_file():
        return {"tokenizer": tokenizer, "not counted": "model.path is no folder with a tokenizer.json"}
    texts = [text for path in paths for text in _spread(path, -(-TOKEN_SAMPLE // len(paths)))]
    encoded = Tokenizer.from_file(str(path)).encode_batch(texts, add_special_tokens=False)
    counts = np.array([len(text.ids) for text in encoded])
    named = {f"p{round(100 * q)}": int(value) for q, value in zip(QUANTILES, np.quantile(counts, QUANTILES))}
    return {"tokenizer": tokenizer, "sampled rows": len(texts), "mean": round(float(counts.mean()), 1), **named}


def _spread(path: Path, wanted: int) -> list[str]:
    """The texts of about `wanted` rows of a file, from evenly spaced row groups."""
    import pyarrow.parquet as pq

    from rl.problems.schema import batch_rows

    texts: list[str] = []
    with pq.ParquetFile(path) as file:
        groups = np.unique(np.linspace(0, file.num_row_groups - 1, 4).astype(int))
        each, column = -(-wanted // len(groups)), "messages" if "messages" in file.schema_arrow.names else "prompt"
        for group in groups:
            size = min(each, batch_rows(file.metadata))
            batch = next(file.iter_batches(size, row_groups=[int(group)], columns=[column]))
            texts += ["\n".join(m["content"] for m in chat) for chat in batch[column].to_pylist()]
    return texts


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """card.json and card.md."""
    (folder / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "card.md").write_text(markdown(card), encoding="utf-8")


def markdown(card: dict[str, Any]) -> str:
    """The card as a page of tables."""
    settings = card["settings"]
    lines = [f"# {card['name']}", "", f"Prepared by raythink from `{settings['source']}` with seed {settings['seed']}.",
             "", *(f"- {item}" for item in card["origin"])]
    for split, part in card["splits"].items():
        lines += ["", f"## {split}: {part['rows']} rows", "", f"Files: {', '.join(part['files']) or 'none'}.", ""]
        lines += _table(("of the rows read", "rows"), [("read", part["read"]), *part["outcomes"].items()])
        lines += _table(("source", "domain", "rows"), [(g["name"], g["domain"], g["rows"]) for g in part["groups"]])
        sizes = [(name, *(part["chars"][name].get(k, "") for k in ("mean", "p50", "p90", "p99", "p100")))
                 for name in part["chars"]]
        lines += _table(("characters", "mean", "p50", "p90", "p99", "longest"), sizes)
        if "tokens" in part:
            lines += ["", "Tokens: " + ", ".join(f"{k} {v}" for k, v in part["tokens"].items()) + "."]
        lines += _table(("rejected because", "rows"), part["reasons"].items()) if part["reasons"] else []
        lines += _table(("renamed", "rows"), part["renamed"].items()) if part["renamed"] else []
    evaluation = card["evaluation"]
    if evaluation["sets"]:
        lines += ["", f"## Decontamination: a run of {evaluation['ngram']} words in common", ""]
        lines += [f"Runs of words in more than {evaluation['common']} questions of one set are the wording of its task "
                  f"and do not count ({evaluation['common runs of words left out']} of them)."]
        sets = [(name, *part.values()) for name, part in evaluation["sets"].items()]
        lines += _table(("evaluation set", "questions", "training rows removed"), sets)
    return "\n".join(lines) + "\n"


def _table(header: Sequence[str], rows: Any) -> list[str]:
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return ["", *(f"| {' | '.join(row)} |" for row in [list(header), ["---"] * len(header), *cells])]
