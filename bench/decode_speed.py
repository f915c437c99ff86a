"""Greedy decoding: ours and transformers.generate, measured in one run.

    python bench/decode_speed.py [--batch 1] [--batch 20] [--repeats 5] [--out results/decode_speed.json]

Random weights, 4 layers of width 256, 4 heads, vocabulary 4096, context 512, fp32; 2 prefix tokens, 510 new
ones, all cores, median after 2 warm-ups, arms in turn. Arms:

    ours                     lilliput.model.generate
    transformers             generate() with its growing cache
    transformers_static      with its preallocated cache
    transformers_compiled    with its preallocated cache and a compiled forward pass

Both must write the same ids. The ratio is to whichever of transformers' settings is fastest here.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from lilliput.device import compiler, machine, peak_rss, threads, versions
from lilliput.model import Decoder, ModelConfig, initialise
from lilliput.model.generate import generate

CONFIG = ModelConfig(
    vocab_size=4096,
    depth=4,
    width=256,
    heads=4,
    kv_heads=4,
    head_dim=64,
    ffn=688,
    context=512,
    bos_id=0,
    eos_id=1,
)
PREFIX, NEW, WARM_UP = 2, 510, 2


def arms(model: Decoder, prompt_BT: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    """Each arm writes NEW ids after the prompt and returns them, (B, NEW)."""
    from transformers import CompileConfig, LlamaConfig, LlamaForCausalLM

    state = dict(model.state_dict())
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    llama = LlamaForCausalLM(LlamaConfig.from_dict({**CONFIG.to_hf(), "attn_implementation": "sdpa"})).eval()
    llama.load_state_dict(state)
    base = {
        "attention_mask": torch.ones_like(prompt_BT),
        "max_new_tokens": NEW,
        "min_new_tokens": NEW,
        "do_sample": False,
        "pad_token_id": 0,
    }

    def ours() -> torch.Tensor:
        return torch.stack(list(generate(model, prompt_BT, NEW, temperature=0)), dim=1)

    def theirs(**how: Any) -> Callable[[], torch.Tensor]:
        return lambda: llama.generate(prompt_BT, **base, **how)[:, PREFIX:]

    found = {
        "ours": ours,
        "transformers": theirs(),
        "transformers_static": theirs(cache_implementation="static", disable_compile=True),
    }
    if compiler():
        compiling = CompileConfig(mode="default", fullgraph=False)
        compiling._compile_all_devices = True  # else transformers compiles on GPUs alone
        found["transformers_compiled"] = theirs(cache_implementation="static", compile_config=compiling)
    return found


def measure(batch: int, repeats: int) -> dict[str, Any]:
    """Seconds of each arm's runs, their medians, and the ratio to transformers' fastest."""
    torch.manual_seed(0)
    model = Decoder(CONFIG)
    initialise(model, 0)
    prompt_BT = torch.randint(2, CONFIG.vocab_size, (batch, PREFIX))
    runs = arms(model, prompt_BT)
    seconds: dict[str, list[float]] = {arm: [] for arm in runs}
    written: dict[str, torch.Tensor] = {}
    for repeat in range(-WARM_UP, repeats):
        for arm, run in runs.items():
            begin = time.perf_counter()
            written[arm] = run()
            if repeat >= 0:
                seconds[arm].append(time.perf_counter() - begin)
    middle = {arm: statistics.median(taken) for arm, taken in seconds.items()}
    fastest = min((arm for arm in runs if arm != "ours"), key=lambda arm: middle[arm])
    rows = {
        arm: {
            "seconds": seconds[arm],
            "per_sequence": NEW / middle[arm],
            "total": batch * NEW / middle[arm],
            "same_ids_as_ours": (written[arm] == written["ours"]).float().mean().item(),
        }
        for arm in runs
    }
    ratio = statistics.median(peer / own for peer, own in zip(seconds[fastest], seconds["ours"], strict=True))
    return {"batch": batch, "arms": rows, "fastest_peer": fastest, "times_fastest_peer": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", action="append", type=int, help="default: 1 and 20")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", help="write the results to this JSON file")
    asked = parser.parse_args()
    torch.set_num_threads(threads())
    report: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine(),
        "versions": versions(),
        "protocol": {
            "prefix": PREFIX,
            "new": NEW,
            "warm_up": WARM_UP,
            "repeats": asked.repeats,
            "dtype": "fp32",
        },
        "parameters": CONFIG.parameters(),
        "runs": [],
    }
    for batch in asked.batch or (1, 20):
        run = measure(batch, asked.repeats)
        report["runs"].append(run)
        print(f"batch {batch}: {run['times_fastest_peer']:.2f} x {run['fastest_peer']}")
        for arm, row in run["arms"].items():
            print(
                f"  {arm:22} {row['per_sequence']:7.0f} tok/s a sequence {row['total']:8.0f} tok/s in all"
                f"  {row['same_ids_as_ours']:6.1%} same ids as ours",
                flush=True,
            )
    report["peak_mb"] = peak_rss() / 1e6
    if asked.out:
        with open(asked.out, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
