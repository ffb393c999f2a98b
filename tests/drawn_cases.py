# SPDX-License-Identifier: BSD-3-Clause
"""Random attention cases for hypothesis: any combination of features that one call may have."""

from __future__ import annotations

from cases import BIAS_SHAPES, Case
from hypothesis import strategies as st

WINDOWS = st.one_of(
    st.just((-1, -1)),
    st.tuples(st.integers(-1, 40), st.integers(-1, 40)),
)


@st.composite
def drawn_case(
    draw: st.DrawFn,
    *,
    dtypes: tuple[str, ...] = ("float16", "bfloat16", "float32", "float64"),
    layouts_k: tuple[str, ...] = ("dense", "packed", "paged", "rows"),
    dropout: bool = True,
    leftpad: bool = True,
    headdims: st.SearchStrategy[int] | None = None,
    longest: int = 70,
) -> Case:
    """Draw a small case; shrinks towards one plain sequence."""
    headdims = st.integers(1, 40) if headdims is None else headdims
    heads_kv = draw(st.integers(1, 3))
    layout_k = draw(st.sampled_from(layouts_k))
    causal = draw(st.booleans())
    window = draw(WINDOWS)
    dtype = draw(st.sampled_from(dtypes))
    features = draw(st.integers(0, 3))  # few features at once leave room for the others to show
    chosen = draw(
        st.lists(
            st.sampled_from(["softcap", "alibi", "sink", "bias", "dropout", "window", "chunk"]),
            min_size=0,
            max_size=2 * features,
            unique=True,
        )
    )
    return Case(
        name="drawn",
        batch=draw(st.integers(0, 4)),
        seqlen_q=draw(st.integers(0, longest)),
        seqlen_k=draw(st.integers(0, longest)),
        heads_q=heads_kv * draw(st.integers(1, 4)),
        heads_kv=heads_kv,
        headdim=draw(headdims),
        headdim_v=draw(headdims),
        dtype=dtype,
        layout_q=draw(st.sampled_from(["dense", "packed"])),
        layout_k=layout_k,
        page_size=draw(st.integers(1, 20)),
        seqused_q=draw(st.booleans()),
        seqused_k=draw(st.booleans()),
        leftpad=leftpad and layout_k != "packed" and draw(st.booleans()),
        strides=draw(st.sampled_from(["contiguous", "heads_first", "sliced"])),
        causal=causal,
        window=window if "window" in chosen else (-1, -1),
        chunk=draw(st.integers(1, longest)) if "chunk" in chosen else 0,
        softcap=draw(st.floats(0.5, 30.0)) if "softcap" in chosen else 0.0,
        alibi=draw(st.sampled_from(["heads", "batch"])) if "alibi" in chosen else "",
        sink="sink" in chosen,
        bias=draw(st.sampled_from(BIAS_SHAPES)) if "bias" in chosen else "",
        bias_dtype=draw(st.sampled_from(["float32", dtype])),
        dropout_p=draw(st.floats(0.0, 0.9)) if dropout and "dropout" in chosen else 0.0,
        magnitude=draw(st.sampled_from([1.0, 0.1, 10.0])),
        batch_invariant=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
    )
