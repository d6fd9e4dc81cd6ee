"""Reads what `nextn train --export` wrote with speculators' own classes, and trains ten steps with its trainer.

    python scripts/check_speculators.py DIR [--steps 10] [--keep FOLDER]

Outside the suite, since speculators brings gigabytes with it. Beside torch and transformers,
`pip install --no-deps speculators hs-connectors datasets pyarrow` and what importing them asks for will do. What is
checked: each row of the dataset is read, its tokens equal those of its hidden states, the last layer's output, passed
through the exported norm and head, predicts the next token about as often as the text follows it, and the trainer's
loss is finite after the last step. With --keep, `nextn extract` makes a GGUF of the checkpoint in that folder.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from speculators.train.data import ArrowDataset, SampleUnavailable

LEAST_FOLLOWED = 0.3  # of the answers' tokens: half of the answers are greedy, the others sampled
LAST_BATCH = 64  # texts that are passed through the head


def read(folder: Path) -> list[int]:
    """Check every row; returns the taps' number and the hidden size."""
    data = ArrowDataset(max_len=4096, datapath=str(folder / "data"), on_missing="raise")
    trunk = load_file(folder / "trunk" / "model.safetensors")
    head, norm = trunk["lm_head.weight"], trunk["model.norm.weight"]
    hidden = head.shape[1]
    same = total = 0
    for number in range(len(data)):
        row = data[number]
        assert not isinstance(row, SampleUnavailable), f"row {number} is not available"
        ids, mask = row["input_ids"], row["loss_mask"].bool()
        last = row["verifier_last_hidden_states"]
        assert ids.dtype == torch.int64 and len(ids) == len(mask) == len(last) == int(row["lengths"])
        assert row["hidden_states"].shape == (len(ids), row["hidden_states"].shape[1]) and last.shape[1] == hidden
        assert row["hidden_states"].shape[1] % hidden == 0 and mask.any() and not mask[0]
        assert torch.isfinite(row["hidden_states"].float()).all()
        if number < LAST_BATCH:
            x = last.float()
            x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * norm
            best = (x @ head.T).argmax(-1)
            follows = mask[1:]
            same += int((best[:-1] == ids[1:])[follows].sum())
            total += int(follows.sum())
    share = same / max(1, total)
    print(f"{len(data)} rows read; the exported norm and head predict {share:.1%} of {total:,} tokens of answers")
    assert share >= LEAST_FOLLOWED, "the last layer's output does not go with the exported norm and head"
    return [row["hidden_states"].shape[1] // hidden, hidden]


def train(folder: Path, taps: list[str], steps: int, out: Path) -> None:
    """Let the trainer make `steps` steps on the CPU."""
    command = [
        sys.executable, "-m", "speculators.train", "--speculator-type", "eagle3", "--norm-before-fc",
        "--verifier-name-or-path", str(folder / "trunk"), "--data-path", str(folder / "data"), "--on-missing", "raise",
        "--target-layer-ids", *taps, "--save-path", str(out), "--max-steps", str(steps), "--epochs", "1",
        "--total-seq-len", "512", "--num-workers", "0", "--draft-attn-impl", "eager", "--loss-implementation", "eager",
        "--hidden-states-dtype", "float32", "--log-freq", "1",
    ]  # fmt: skip
    done = subprocess.run(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True)
    text = done.stdout + done.stderr
    print("\n".join(line[:160] for line in text.splitlines() if "loss" in line)[-2000:])
    assert done.returncode == 0, text[-3000:]
    assert "nan" not in text.lower().split("loss")[-1][:40], "the loss is not a number"
    print(f"{steps} steps trained; checkpoint: {sorted(path.name for path in out.iterdir())}")


def main() -> None:
    """Read, then train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--taps", nargs=3, default=["2", "15", "27"], help="as the export's command names them")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--keep", type=Path, help="keep the trainer's checkpoint here")
    args = parser.parse_args()
    read(args.folder)
    with tempfile.TemporaryDirectory() as name:
        train(args.folder, args.taps, args.steps, args.keep or Path(name))


if __name__ == "__main__":
    main()
