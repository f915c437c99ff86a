"""Layers used against loss, and the speed of self-speculative decoding, of plain models and of those trained to exit.

    python bench/early_exit.py --corpus TRAIN --text FILE [--seeds 3] [--tokens 3M] [--out results/early_exit.json]

For each seed two models of about 954,000 parameters (ten layers of width 80) are made through the store, as the study
`exit-loss` has them: `plain`, and `both`, with LayerSkip's exit loss and layer dropout (2404.16710). Each is measured
on the text whole, and with each token leaving at a confidence of 0.5 to 0.95 after the 2nd, 4th, 6th or 8th layer, the
first that is sure enough (`lilliput evaluate --exit`). Then 256 tokens are written greedily after the beginnings of the
text's first documents, plainly and with drafts of the first 2 or 4 layers, in turns, and tokens a second compared.

Claims, declared here, judged over documents and seeds (lilliput.evaluate.statistics):

    layers      the model trained to exit loses at most 2 % of its bits per byte to whole reading at the threshold that
                uses the most layers up to 60 %, and there is such a threshold
    speed       with the best draft the model trained to exit writes at least 1.1 times as fast as plainly: the ratio is
                a median over prompts, with its bootstrap interval

Exits cost heads: `arithmetic` is the share of all multiplications that is spent, each asked head counted. Needs the
extra `lab`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lilliput.corpus.report import ReadReport
from lilliput.corpus.sources import read_source
from lilliput.device import machine, versions
from lilliput.evaluate.bits import Bits, bits_per_byte
from lilliput.evaluate.measured import Scores
from lilliput.evaluate.statistics import compare, judge
from lilliput.export.hf import load_model_dir
from lilliput.model.decoder import Decoder
from lilliput.model.early_exit import ExitReader, Exits
from lilliput.model.generate import generate
from lilliput.model.speculate import Speculation, speculate
from lilliput.pipeline import make
from lilliput.progress import say
from lilliput.recipe import SourceSpec, load_recipe
from lilliput.store import write_json
from lilliput.tokenizer.load import Tokenizer

SHAPE = ["model.depth=10", "model.width=80", "model.heads=4", "model.expansion=2.77", "model.context=256"]
ARMS = {"plain": [], "both": ["train.exit_loss=0.2", "train.layer_dropout=0.1"]}
THRESHOLDS, LAYERS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95), (2, 4, 6, 8)
DRAFTS = ((2, 2), (2, 4), (4, 2), (4, 4))
PROMPTS, NEW, REPEATS = 8, 240, 3
MOST_LAYERS, LOSS, FASTER = 0.6, 0.02, 1.1


def made(arm: str, seed: int, asked: argparse.Namespace) -> tuple[Decoder, Tokenizer]:
    """The arm's model with this seed: found in the store, or trained."""
    settings = [f"corpus={asked.corpus}", "budget.params=null", "tokenizer.vocab_size=2048", f"seed={seed}", *SHAPE]
    settings += [f"train.tokens={asked.tokens}", "train.batch_tokens=6144", "train.compile=false", "train.threads=1"]
    folder = Path(asked.work) / f"{arm}-seed{seed}"
    make(load_recipe("tiny", [*settings, *ARMS[arm]]), folder, device="cpu")
    model, tokenizer = load_model_dir(folder / "model")
    return model.eval(), tokenizer


def leaving(model: Decoder, tokenizer: Tokenizer, texts: list[str]) -> dict[str, tuple[Bits, dict[str, float]]]:
    """The text read whole and with each threshold: (bits, what was used)."""
    found = {"whole": (bits_per_byte(model, tokenizer, texts, title=None), {"layers": 1.0, "arithmetic": 1.0})}
    for threshold in THRESHOLDS:
        reader = ExitReader(model, Exits.of(model.config, threshold, LAYERS))
        bits = bits_per_byte(reader, tokenizer, texts, title=None)
        used = {"layers": reader.layers_used() / model.config.depth, "arithmetic": reader.arithmetic()}
        found[f"{threshold:g}"] = (bits, used)
    return found


def written(model: Decoder, ids_BT: torch.Tensor, draft: tuple[int, int] | None) -> tuple[list[int], float, float]:
    """(tokens, seconds, share of the drafts that were taken)."""
    how = None if draft is None else Speculation(*draft)
    begin = time.perf_counter()
    source = generate(model, ids_BT, NEW, temperature=0) if how is None else speculate(model, ids_BT, NEW, how)
    tokens = [int(new) for new in source]
    return tokens, time.perf_counter() - begin, 0.0 if how is None else how.acceptance()


def speeds(model: Decoder, tokenizer: Tokenizer, texts: list[str]) -> list[dict[str, Any]]:
    """Each draft against plain writing: ratio of speeds by prompt, acceptance, and whether the texts are equal."""
    prompts = [torch.tensor([[tokenizer.bos_id, *tokenizer.encode(text)][:12]]) for text in texts[:PROMPTS]]
    rows = []
    for draft in DRAFTS:
        ratios, taken, same = [], [], True
        for ids_BT in prompts:
            pairs = [(written(model, ids_BT, None), written(model, ids_BT, draft)) for _ in range(REPEATS)]
            ratios.append(float(np.median([plain[1] / quick[1] for plain, quick in pairs])))
            taken.append(pairs[0][1][2])
            same = same and all(plain[0] == quick[0] for plain, quick in pairs)
        rows.append({"draft": list(draft), "ratios": ratios, "acceptance": float(np.mean(taken)), "same_text": same})
    return rows


def scores(bits: Bits) -> Scores:
    """What a paired comparison needs."""
    return Scores(bits.nats, bits.bytes.astype(float), bits.text_hash)


def median_interval(ratios: list[float]) -> tuple[float, float, float]:
    """The median and its 95 % bootstrap interval."""
    drawn = np.median(np.random.default_rng(0).choice(ratios, (10_000, len(ratios))), axis=1)
    return float(np.median(ratios)), *(float(bound) for bound in np.quantile(drawn, (0.025, 0.975)))


def judged_layers(found: dict[tuple[str, int], dict[str, tuple[Bits, dict[str, float]]]], seeds: int) -> dict[str, Any]:
    """The claim on layers, for the model trained to exit."""
    shares = {
        name: float(np.mean([found["both", seed][name][1]["layers"] for seed in range(seeds)]))
        for name in map("{:g}".format, THRESHOLDS)
    }
    within = [name for name, share in shares.items() if share <= MOST_LAYERS]
    if not within:
        return {"verdict": "not supported", "why": f"no threshold uses at most {MOST_LAYERS:.0%} of the layers"}
    name = max(within, key=shares.__getitem__)
    cells = {
        (arm, seed): scores(found["both", seed][where][0])
        for arm, where in (("leaving", name), ("whole", "whole"))
        for seed in range(seeds)
    }
    effect = compare(cells, "leaving", "whole")
    whole = float(np.mean([found["both", seed]["whole"][0].value for seed in range(seeds)]))
    verdict = judge("non-inferiority", effect, LOSS * whole)
    return {"threshold": name, "layers": shares[name], "delta": LOSS * whole, **effect.to_dict(), "verdict": verdict}


def main() -> None:
    """Make, measure, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--bytes", type=int, default=400_000, help="of the text that is scored")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", default="3M")
    parser.add_argument("--work", default="runs/early-exit")
    parser.add_argument("--out", default="results/early_exit.json")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    texts, size = [], 0
    for text in read_source(SourceSpec(source=asked.text), ReadReport(), whole=True):
        if size < asked.bytes:
            texts.append(text)
            size += len(text.encode())
    found, rows, ratios = {}, [], {}
    for seed in range(asked.seeds):
        for arm in ARMS:
            model, tokenizer = made(arm, seed, asked)
            found[arm, seed] = leaving(model, tokenizer, texts)
            drafts = speeds(model, tokenizer, texts)
            exits = {name: {"bits_per_byte": bits.value, **used} for name, (bits, used) in found[arm, seed].items()}
            rows.append({"arm": arm, "seed": seed, "exits": exits, "drafts": drafts})
            for row in drafts:
                ratios.setdefault((arm, tuple(row["draft"])), []).extend(row["ratios"])
            say(f"{arm}, seed {seed}: " + ", ".join(f"{n} {e['bits_per_byte']:.4f}" for n, e in exits.items()))
    best = max(DRAFTS, key=lambda draft: float(np.median(ratios["both", draft])))
    middle, low, high = median_interval(ratios["both", best])
    verdict = "supported" if low > FASTER else "not supported" if high < FASTER else "inconclusive"
    answer = {
        "command": " ".join(["bench/early_exit.py", *(f"--{k} {v}" for k, v in vars(asked).items())]),
        "claims": {
            "layers": judged_layers(found, asked.seeds),
            "speed": {"draft": list(best), "ratio": middle, "low": low, "high": high, "verdict": verdict},
        },
        "rows": rows,
        "machine": machine(),
        "versions": versions(),
    }
    write_json(Path(asked.out), answer)
    print(json.dumps(answer["claims"], indent=1))


if __name__ == "__main__":
    main()
