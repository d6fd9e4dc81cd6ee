"""Reads what `nextn train --export` wrote with speculators' own classes, and trains ten steps with its model.

    python scripts/check_speculators.py DIR [--steps 10] [--keep FOLDER]

Outside the suite, since speculators brings gigabytes with it. Beside torch and transformers,
`pip install --no-deps speculators hs-connectors datasets pyarrow` and what importing them asks for will do. What is
checked: each row of the dataset is read, its tokens equal those of its hidden states, the last layer's output, passed
through the exported norm and head, predicts the next token about as often as the text follows it, and the loss is
finite in each step. With --keep, `nextn extract` makes a GGUF of the checkpoint in that folder.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from speculators.losses import resolve_loss_config
from speculators.models.eagle3 import Eagle3DraftModel, shift_batch
from speculators.train.data import ArrowDataset, CollateFn, SampleUnavailable
from transformers import AutoConfig

LEAST_FOLLOWED = 0.3  # of the answers' tokens: half of the answers are greedy, the others sampled
LAST_BATCH = 64  # texts that are passed through the head
BATCH_TOKENS = 256


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


def train(folder: Path, taps: list[int], steps: int, out: Path) -> None:
    """Make `steps` steps with speculators' model, loss and batches, on the CPU; its own trainer asks for a GPU."""
    trunk = folder / "trunk"
    config = AutoConfig.from_pretrained(trunk)
    config.num_hidden_layers = 1
    model = Eagle3DraftModel.from_training_args(
        config, None, None, draft_vocab_size=config.vocab_size, norm_before_residual=False, norm_before_fc=True,
        ttt_steps=3, verifier_name_or_path=str(trunk), target_layer_ids=taps, draft_attn_impl="eager",
    ).float()  # fmt: skip
    data = ArrowDataset(512, folder / "data", on_missing="raise", hidden_states_dtype=torch.float32)
    collate = CollateFn(BATCH_TOKENS, config.hidden_size, len(taps), torch.float32, shift_batch)
    loss_config = resolve_loss_config("kl_div", "eager")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-4)
    losses = []
    for step in range(steps):
        rows = [data[(2 * step + n) % len(data)] for n in range(2)]
        batch = collate(rows)
        batch.pop("error_records")
        _, loss, _ = model(**batch, ttt_steps=3, loss_config=loss_config)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        print(f"step {step + 1}: loss {losses[-1]:.3f}", flush=True)
    assert all(math.isfinite(loss) for loss in losses), "a loss is not a number"
    model.save_pretrained(out)
    print(f"{steps} steps trained; checkpoint: {', '.join(sorted(path.name for path in out.iterdir()))}")


def main() -> None:
    """Read, then train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--taps", nargs=3, type=int, default=[2, 15, 27], help="as the export's command names them")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--keep", type=Path, help="keep the checkpoint here")
    args = parser.parse_args()
    read(args.folder)
    with tempfile.TemporaryDirectory() as name:
        train(args.folder, args.taps, args.steps, args.keep or Path(name))


if __name__ == "__main__":
    main()
