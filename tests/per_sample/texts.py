"""The sizes of tiny language models, and batches of token ids for them."""

import torch

from tests.per_sample.harness import K

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
TEXT = {**SMALL, "vocab_size": 50, "max_position_embeddings": 32}


def tokens(labels: torch.Tensor | None = None) -> dict:
    ids, mask = torch.randint(4, 50, (K, 9)), torch.ones(K, 9, dtype=torch.long)
    for n in range(K):
        mask[n, 5 + n :] = 0
    labels = ids.masked_fill(mask == 0, -100) if labels is None else labels
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}
