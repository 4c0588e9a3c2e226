"""The C++ decoder against the numpy reference, its variants against each other, bad arguments."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nestling.model.batch import ForwardBatch
from nestling.model.config import Gemma3nTextConfig
from nestling.model.kernels import NumpyKernels
from nestling.model.tensors import TensorSource
from nestling.native.gemma3n import FIRST_INT8_POW2_LAYER, Gemma3n, KvCache
from nestling.native.system import ThreadPool
from nestling.weights.packing import PackPlan, core_config, core_layers, pack_weights
from tests.model.native_decoder import Native, NativeDecoder
from tests.model.session import Array, NumpyDecoder, OnLayer, Session, make_decoder, one_shot
from tests.model.strategies import configs, schedules
from tests.model.tiny import TINY, TINY_LLAMA_CPP, DictTensors, random_weights, token_ids
from tests.native.stored_models import MIXED, SIX_BITS, UnpackedTensors, stored_model
from tests.native.variants import EXACT_PAIR, VARIANTS

# Sums in another order: a few 1e-4 in the touchiest random models, where a wrong formula gives 1.
FLOAT_TOLERANCE = 1e-3
# The same for the models whose neurons are many enough that rounding stays small; 1e-4 at worst.
TINY_TOLERANCE = 5e-4
QUIET = settings(
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # shrinking whole models is slow and explains nothing
    suppress_health_check=list(HealthCheck),
)


def relative(ours: Array, theirs: Array) -> float:
    """Root mean square of the difference, in standard deviations."""
    return float(np.sqrt(np.mean((ours - theirs) ** 2)) / theirs.std())


def median_relative(ours: Array, theirs: Array) -> float:
    """Return the median over tokens of what `relative` is of each."""
    by_token = np.sqrt(np.mean((ours - theirs) ** 2, axis=1)) / theirs.std()
    return float(np.median(by_token))


class RoundingKernels(NumpyKernels):
    """The reference with the inputs of its products rounded to 127 steps of the largest of 32."""

    def linear(self, x: Array, weight: Any) -> Array:
        groups = np.pad(x, ((0, 0), (0, -x.shape[1] % 32))).reshape(len(x), -1, 32)
        step = np.abs(groups).max(axis=2, keepdims=True) / 127
        rounded = np.rint(groups / np.where(step > 0, step, 1)) * step
        return super().linear(rounded.reshape(len(x), -1)[:, : x.shape[1]], weight)


def assert_as_near_as_bytes_allow(decoder: NativeDecoder, source: TensorSource, seed: int) -> None:
    """The core rounds fewer activations than `RoundingKernels`, so it may not be off by much more.

    That is 1 to 6 % of the logits' standard deviation for half of the tokens. A group or a scale at
    the wrong place gives 100 % for all of them. The median is what counts: in a touchy model a few
    tokens, whose neurons lie at a cutoff, differ by far more in any arithmetic.
    """
    config = decoder.config
    ids = token_ids(config, 30, seed)
    unpacked = UnpackedTensors(decoder, source)
    oracle = one_shot(make_decoder(config, source=unpacked), ids)
    rounded = one_shot(NumpyDecoder(config, unpacked, RoundingKernels()), ids)
    difference = median_relative(one_shot(decoder, ids), oracle)
    assert 0 < difference <= 0.02 + 2 * median_relative(rounded, oracle)


@pytest.mark.parametrize("variant", VARIANTS)
@settings(QUIET, max_examples=25)
@given(config=configs(), schedule=schedules(), seed=st.integers(0, 99), sparse=st.booleans())
def test_random_models_in_float32(
    variant: str,
    config: Gemma3nTextConfig,
    schedule: tuple[list[int], list[list[int]]],
    seed: int,
    sparse: bool,
) -> None:
    """Also in any schedule with two threads, to the bit."""
    lengths, steps = schedule
    sequences = [token_ids(config, n, seed + i) for i, n in enumerate(lengths)]
    source = DictTensors(random_weights(config, seed))
    how = Native(variant=variant, sparse_feed_forward=sparse)
    decoder = NativeDecoder(config, source, how)
    oracle = make_decoder(config, source=source)
    session = Session(NativeDecoder(config, source, replace(how, num_threads=2)), sequences, seed)
    for counts in steps:
        session.step(counts)
    for s, ids in enumerate(sequences):
        expected = one_shot(decoder, ids)
        np.testing.assert_array_equal(session.result(s), expected)
        np.testing.assert_allclose(expected, one_shot(oracle, ids), atol=FLOAT_TOLERANCE, rtol=0)


@pytest.mark.parametrize("config", [TINY, TINY_LLAMA_CPP], ids=["tiny", "tiny_llama_cpp"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_tiny_models_in_float32(variant: str, config: Gemma3nTextConfig) -> None:
    """As `make parity` holds both against transformers, without it."""
    source = DictTensors(random_weights(config, 1))
    ids = token_ids(config, 100, 1)
    ours = one_shot(NativeDecoder(config, source, Native(variant=variant)), ids)
    oracle = one_shot(make_decoder(config, source=source), ids)
    np.testing.assert_allclose(ours, oracle, atol=TINY_TOLERANCE, rtol=0)


def keep_in(seen: list[Array]) -> OnLayer:
    """Return a function that adds a copy of each layer's output to the list."""
    return lambda _, output: seen.append(output.copy())


def test_streams_after_each_layer_of_a_wide_model() -> None:
    source = DictTensors(random_weights(TINY_LLAMA_CPP, 4))
    ids = token_ids(TINY_LLAMA_CPP, 5, 4)
    seen: list[list[Array]] = []
    for decoder in (
        NativeDecoder(TINY_LLAMA_CPP, source, Native()),
        make_decoder(TINY_LLAMA_CPP, source=source),
    ):
        seen.append([])
        one_shot(decoder, ids, keep_in(seen[-1]))
    assert [s.shape for s in seen[0]] == [(5, 4, 256)] * 25
    for ours, theirs in zip(*seen, strict=True):
        assert relative(ours, theirs) < 1e-4


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("variant", VARIANTS)
@settings(QUIET, max_examples=8)
@given(config=configs(), seed=st.integers(0, 99))
def test_random_models_in_half_precision(
    variant: str, dtype: Any, config: Gemma3nTextConfig, seed: int
) -> None:
    """Weights are exact and sums are float32, so the tolerance is that of float32."""
    source = DictTensors(random_weights(config, seed))
    decoder = NativeDecoder(config, source, Native(variant=variant, dtype=dtype))
    oracle = make_decoder(config, source=UnpackedTensors(decoder, source))
    ids = token_ids(config, 30, seed)
    ours, theirs = one_shot(decoder, ids), one_shot(oracle, ids)
    np.testing.assert_allclose(ours, theirs, atol=FLOAT_TOLERANCE, rtol=0)


@pytest.mark.parametrize("dtype", ["q8", "q4"])
@pytest.mark.parametrize("variant", VARIANTS)
@settings(QUIET, max_examples=8)
@given(config=configs(), seed=st.integers(0, 99), wide=st.booleans(), sparse=st.booleans())
def test_random_models_quantised(
    variant: str, dtype: Any, config: Gemma3nTextConfig, seed: int, wide: bool, sparse: bool
) -> None:
    source = DictTensors(random_weights(config, seed))
    how = Native(variant=variant, dtype=dtype, int16_activations=wide, sparse_feed_forward=sparse)
    assert_as_near_as_bytes_allow(NativeDecoder(config, source, how), source, seed)


@pytest.mark.parametrize("shift", range(len(MIXED)))
@pytest.mark.parametrize("variant", VARIANTS)
def test_stored_types_mixed(variant: str, shift: int) -> None:
    """Each matrix of the tiny model in each of seven types, among them those with a minimum."""
    source = stored_model(TINY, 2, MIXED[shift:] + MIXED[:shift])
    decoder = NativeDecoder(TINY, source, Native(variant=variant, dtype="auto", num_threads=2))
    assert_as_near_as_bytes_allow(decoder, source, 4)


def gates_packed_twice(source: TensorSource, **how: Any) -> set[str]:
    plan = PackPlan(TINY, source, ThreadPool(1), **how)
    return {name for name in plan.matrices() if name.endswith("gate_rows.weight")}


def test_quantised_gates_of_the_first_sparse_layers_are_packed_twice() -> None:
    stored_as = {dtype: stored_model(TINY, 2, (dtype,)) for dtype in ("Q4_0", "BF16", "Q6_K")}
    layers = range(min(FIRST_INT8_POW2_LAYER, TINY.num_hidden_layers))
    sparse = [i for i in layers if TINY.activation_std_multiplier(i) is not None]
    expected = {f"layers.{i}.mlp.gate_rows.weight" for i in sparse}
    assert expected
    assert gates_packed_twice(stored_as["Q4_0"]) == expected
    assert gates_packed_twice(stored_as["BF16"]) == set()
    assert gates_packed_twice(stored_as["BF16"], dtype="q8") == expected
    assert gates_packed_twice(stored_as["Q4_0"], dtype="float32") == set()
    assert gates_packed_twice(stored_as["Q4_0"], sparse_feed_forward=False) == set()
    assert gates_packed_twice(stored_as["Q6_K"]) == set()  # its rows would have other values


def test_gates_near_the_cutoff_are_as_good_as_wide_ones() -> None:
    source = DictTensors(random_weights(TINY, 1))
    ids = token_ids(TINY, 60, 5)
    refined = NativeDecoder(TINY, source, Native(dtype="q4"))
    narrow = NativeDecoder(TINY, source, Native(dtype="q4", int16_activations=False))
    exact = one_shot(make_decoder(TINY, source=UnpackedTensors(refined, source)), ids)
    error = relative(one_shot(refined, ids), exact)
    assert error < 0.6 * relative(one_shot(narrow, ids), exact)
    counts = refined.core.times()
    share = counts["num_refined_neurons"] / counts["num_sparse_neurons"]
    assert 0 < share < 0.1  # only what may live


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "q4"])
def test_bytes_of_a_token_are_what_a_step_of_one_row_reads(dtype: Any, wide: bool) -> None:
    decoder = NativeDecoder(TINY, SOURCES["float"], Native(dtype=dtype, int16_activations=wide))
    one_shot(decoder, [7])
    read = decoder.core.times()["weight_bytes"]
    assert abs(decoder.core.weight_bytes_per_token() - read) < 0.001 * read


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_six_bits(variant: str, wide: bool) -> None:
    """Whatever is tiled and has whole blocks; sparse layers' rows and columns in float16."""
    source = stored_model(SIX_BITS, 2, ("Q6_K",))
    how = Native(variant=variant, dtype="auto", num_threads=2, int16_activations=wide)
    decoder = NativeDecoder(SIX_BITS, source, how)
    formats = {name: w.format for name, w in decoder.weights.items() if hasattr(w, "format")}
    for name in (
        "lm_head.weight",
        "layers.0.mlp.gate_proj.weight",
        "layers.3.mlp.down_proj.weight",
    ):
        assert formats[name] == "q6"
    assert formats["layers.0.mlp.up_proj.weight"] == "float16"
    assert_as_near_as_bytes_allow(decoder, source, 4)


def test_the_size_of_six_bits_is_foreseen() -> None:
    plan = PackPlan(SIX_BITS, stored_model(SIX_BITS, 2, ("Q6_K",)), ThreadPool(1))
    actual = sum(packed.nbytes for _, packed in plan.pack())
    assert 0.95 * actual < plan.packed_bytes() < 1.05 * actual


SOURCES: dict[str, TensorSource] = {
    "float": DictTensors(random_weights(TINY, 1)),
    "mixed": stored_model(TINY, 2, MIXED),
    "q6": stored_model(SIX_BITS, 2, ("Q6_K",)),
}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "q8", "q6", "q4", "mixed"])
@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
def test_variants_agree(dtype: str, wide: bool, sparse: bool) -> None:
    """Those with fused multiply-add to the bit; portable code rounds products before it adds."""
    source = SOURCES.get(dtype, SOURCES["float"])
    config = SIX_BITS if dtype == "q6" else TINY
    ids = token_ids(TINY, 40, 5)
    logits = {}
    for variant in VARIANTS:
        how = Native(
            variant=variant,
            dtype="auto" if dtype in SOURCES else dtype,  # type: ignore[arg-type]
            int16_activations=wide,
            sparse_feed_forward=sparse,
            kv_dtype="float16",
        )
        logits[variant] = one_shot(NativeDecoder(config, source, how), ids)
    if set(EXACT_PAIR) <= set(VARIANTS):
        first, second = (logits[variant] for variant in EXACT_PAIR)
        np.testing.assert_array_equal(first, second)
    # Rounding to bytes and float16 turns a last bit into a whole step where it falls on a border.
    for variant in VARIANTS:
        assert relative(logits[variant], logits["portable"]) <= 0.02


@pytest.mark.parametrize("dtype", ["float32", "q4"])
def test_switches_change_nothing_but_the_work(dtype: Any) -> None:
    ids = token_ids(TINY, 60, 6)
    source = SOURCES["float"]
    base = Native(dtype=dtype)
    last = []
    whole_rows = replace(base, prefill_skip=False)
    all_off = replace(whole_rows, fused_passes=False, wanted_logits_only=False)
    for how in (base, whole_rows, all_off):
        decoder = NativeDecoder(TINY, source, how)
        session = Session(decoder, [ids])
        batch = replace(session.batch([60]), logit_rows=np.array([0, 58], np.int32))
        seen: list[Array] = []
        last.append(decoder.forward(batch, session.cache, keep_in(seen)))
        owners = TINY.first_kv_shared_layer - 1
        assert [len(s) for s in seen] == [60] * owners + [2 if how.prefill_skip else 60] * (
            10 - owners
        )
    np.testing.assert_array_equal(last[0], last[1])
    np.testing.assert_array_equal(last[0], last[2])
    whole = one_shot(NativeDecoder(TINY, source, base), ids)
    np.testing.assert_array_equal(last[0], whole[[0, 58]])
    dense = one_shot(NativeDecoder(TINY, source, replace(base, sparse_feed_forward=False)), ids)
    assert relative(dense, whole) < 0.05  # another order of sums, and bytes before down_proj


def test_a_prompt_without_logits_leaves_the_same_cache() -> None:
    ids = token_ids(TINY, 40, 7)
    decoder = NativeDecoder(TINY, SOURCES["float"], Native(dtype="q8"))
    session = Session(decoder, [ids], slot_seed=1)
    logits = decoder.forward(session.batch([39], all_logits=False), session.cache)
    assert logits.shape == (0, TINY.vocab_size)
    session.num_computed = [39]
    session.step([1])
    np.testing.assert_array_equal(session.result()[0], one_shot(decoder, ids)[39])


def test_fewer_logits_are_the_first_ones() -> None:
    decoder = NativeDecoder(TINY, SOURCES["float"], Native(num_threads=2))
    session = Session(decoder, [token_ids(TINY, 5, 1)])
    batch = session.batch([5])
    expected = decoder.forward(batch, session.cache)
    for num_logits in (1, 15, 16, 17, 500, 543):
        logits = step(decoder.core, session.cache, batch, num_logits=num_logits)
        np.testing.assert_array_equal(logits, expected[:, :num_logits])


def test_models_of_one_thread_share_nothing() -> None:
    """Two models of different widths in turn, each as if alone."""
    narrow = replace(TINY, hidden_size_per_layer_input=5, head_dim=14, hidden_size=100)
    ids = token_ids(TINY, 20, 1)
    models = [make_decoder(config, native=Native()) for config in (TINY, narrow)]
    first = [one_shot(model, ids) for model in models]
    oracles = [one_shot(make_decoder(config), ids) for config in (TINY, narrow)]
    for model, logits, oracle in zip(models, first, oracles, strict=True):
        np.testing.assert_array_equal(one_shot(model, ids), logits)
        np.testing.assert_allclose(logits, oracle, atol=FLOAT_TOLERANCE, rtol=0)


ODD_SIZES = replace(
    TINY,
    intermediate_size=(129, 300, 250, 144, 131, 160, 145, 290, 130, 256),
    activation_sparsity_pattern=(0.5,) * 10,
)


@pytest.mark.parametrize("sparse", [True, False])
def test_odd_intermediate_sizes_in_any_order(sparse: bool) -> None:
    """A narrow sparse layer after a wide one does not see what that one left."""
    ids = token_ids(ODD_SIZES, 30, 1)
    expected = one_shot(make_decoder(ODD_SIZES), ids)
    ours = one_shot(make_decoder(ODD_SIZES, native=Native(sparse_feed_forward=sparse)), ids)
    np.testing.assert_allclose(ours, expected, atol=FLOAT_TOLERANCE, rtol=0)


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("dtype", ["q4", "q8"])
def test_odd_intermediate_sizes_leave_nothing_for_the_next_step(dtype: Any, sparse: bool) -> None:
    decoder = make_decoder(ODD_SIZES, native=Native(dtype=dtype, sparse_feed_forward=sparse))
    ids = token_ids(ODD_SIZES, 30, 1)
    expected = one_shot(decoder, ids)
    one_shot(decoder, token_ids(ODD_SIZES, 40, 9))
    np.testing.assert_array_equal(one_shot(decoder, ids), expected)


def test_numbers_that_are_not_finite_stay_in_their_row() -> None:
    weights = random_weights(TINY, 1)
    weights["embed_tokens.weight"] = weights["embed_tokens.weight"].copy()
    weights["embed_tokens.weight"][7] = np.nan
    weights["embed_tokens_per_layer.weight"] = weights["embed_tokens_per_layer.weight"].copy()
    weights["embed_tokens_per_layer.weight"][8] = np.inf
    for dtype in ("float32", "q4", "q8"):
        clean = NativeDecoder(TINY, SOURCES["float"], Native(dtype=dtype))
        poisoned = NativeDecoder(TINY, DictTensors(weights), Native(dtype=dtype))
        good = [i for i in token_ids(TINY, 40, 2) if i not in (7, 8)][:20]
        for bad in ([7, 7, 3], [8, 3, 8, 8]):
            session = Session(poisoned, [good, bad])
            session.step([20, len(bad)])
            if dtype == "float32":  # id 7 is part of the head too
                expected = one_shot(clean, good)
                keep = np.arange(TINY.vocab_size) != 7
                np.testing.assert_array_equal(session.result()[:, keep], expected[:, keep])
            np.testing.assert_array_equal(session.result(), one_shot(poisoned, good))


# --- bad arguments -------------------------------------------------------------------------------


def step(core: Gemma3n, cache: KvCache, batch: ForwardBatch, **changes: Any) -> Array:
    arguments: dict[str, Any] = {
        name: getattr(batch, name)
        for name in (
            "input_ids", "positions", "query_start_loc", "full_block_table", "sliding_block_table",
            "logit_rows",
        )
    }  # fmt: skip
    arguments |= {"num_logits": TINY.vocab_size} | changes
    shape = (len(arguments["logit_rows"]), arguments.pop("num_logits"))
    logits = arguments.setdefault("logits", np.empty(shape, np.float32))
    core.step(cache, **arguments)
    return logits  # type: ignore[no-any-return]


def int32(*values: Any) -> Any:
    return np.array(values, np.int32)


def read_only(*shape: int) -> Array:
    array = np.zeros(shape, np.float32)
    array.flags.writeable = False
    return array


BAD: list[tuple[dict[str, Any], str]] = [
    ({"input_ids": int32(*[1] * 129)}, r"input_ids.*at most 128 tokens"),
    ({"input_ids": int32(1, 2, 3, 4, 5, 544)}, r"input_ids\[5\]: expected 0 to 543, got 544"),
    ({"input_ids": int32(1, 2, -1, 4, 5, 6)}, r"input_ids\[2\]: expected 0 to 543, got -1"),
    ({"input_ids": int32(1, 2)}, "positions.*one for each token"),
    ({"input_ids": np.arange(6)}, "input_ids: expected int32"),
    ({"positions": int32(20, 21, 22, 23, 0)}, "positions.*one for each token"),
    ({"positions": int32(20, 21, 23, 24, 0, 1)}, r"positions\[2\]: expected ascending by one"),
    ({"positions": int32(20, 21, 22, 23, -1, 0)}, r"positions\[4\].*got -1"),
    ({"positions": int32(20, 21, 22, 23, 511, 512)}, r"positions\[5\].*below 512, got 512"),
    ({"positions": int32(20, 21, 22, 23, 2**31 - 2, 2**31 - 1)}, r"positions\[4\]"),
    ({"query_start_loc": int32(1, 4, 6)}, "query_start_loc: expected 0 first"),
    ({"query_start_loc": int32(0, 4, 5)}, "query_start_loc: expected 0 first and the number"),
    ({"query_start_loc": int32(0, 0, 6)}, r"query_start_loc\[1\]: expected ascending tokens"),
    ({"query_start_loc": int32(0, 6, 6)}, r"positions\[4\]: expected ascending by one"),
    ({"query_start_loc": int32(0, 9000, 6)}, r"query_start_loc\[1\]: .*got 9000"),
    ({"query_start_loc": int32(0, -3, 6)}, r"query_start_loc\[1\]: .*got -3"),
    ({"query_start_loc": int32(0, 6)}, "block table: num_seqs"),
    ({"query_start_loc": int32()}, "num_seqs|query_start_loc"),
    ({"full_block_table": int32([0, -1, -1], [2, -1, -1])}, r"full_block_table\[1\].*got -1"),
    ({"full_block_table": int32([0, 4, -1], [2, -1, -1])}, r"full_block_table\[1\].*got 4"),
    ({"full_block_table": int32([-1, 1, -1], [2, -1, -1])}, r"full_block_table\[0\].*got -1"),
    ({"sliding_block_table": int32([0, -1, -1], [2, -1, -1])}, r"sliding_block_table\[1\]"),
    ({"sliding_block_table": int32([-1, 1, -1], [2, -1, -1])}, r"sliding_block_table\[0\]"),
    ({"sliding_block_table": int32([0, 5, -1], [2, -1, -1])}, r"\[1\].*0 to 5 \(excluded\), got 5"),
    ({"sliding_block_table": int32([0, 1], [2, -1])}, "sliding_block_table: max_blocks"),
    (
        {name: int32([0], [2]) for name in ("full_block_table", "sliding_block_table")},
        "block_table.*a block for position 23",
    ),
    ({"logit_rows": int32(3, 3)}, r"logit_rows\[1\]: expected ascending tokens"),
    ({"logit_rows": int32(4, 2)}, r"logit_rows\[1\]"),
    ({"logit_rows": int32(-1)}, r"logit_rows\[0\].*got -1"),
    ({"logit_rows": int32(5, 6)}, r"logit_rows\[1\].*got 6"),
    ({"num_logits": 0}, "num_logits.*1 to 544"),
    ({"num_logits": 545}, "num_logits.*1 to 544, got 545"),
    ({"logits": np.empty((3, 544), np.float32)}, "logits: rows: expected 2, got 3"),
    ({"logits": np.empty((2, 544))}, "incompatible function arguments"),
    ({"logits": np.empty((2, 1088), np.float32)[:, ::2]}, "incompatible function arguments"),
    ({"logits": read_only(2, 544)}, "incompatible function arguments"),
    ({"positions": np.arange(12, dtype=np.int32)[::2]}, "positions: .*C-contiguous"),
    ({"full_block_table": int32(0, 1)}, r"full_block_table: expected int32 \[num_seqs"),
]  # fmt: skip


@pytest.fixture(scope="module")
def decoder() -> NativeDecoder:
    return NativeDecoder(TINY, SOURCES["float"], Native(num_threads=2))


def good_batch() -> ForwardBatch:
    """Positions 20 to 23 of one sequence and the first two of another."""
    return ForwardBatch(
        input_ids=int32(1, 2, 3, 4, 5, 6),
        positions=int32(20, 21, 22, 23, 0, 1),
        query_start_loc=int32(0, 4, 6),
        block_size=16,
        full_block_table=int32([0, 1, -1], [2, -1, -1]),
        sliding_block_table=int32([0, 1, -1], [2, -1, -1]),
        logit_rows=int32(3, 5),
    )


@pytest.mark.parametrize(("changes", "message"), BAD, ids=lambda value: str(value)[:60])
def test_a_bad_batch_is_refused_and_the_next_one_served(
    decoder: NativeDecoder, changes: dict[str, Any], message: str
) -> None:
    cache = decoder.new_cache(4, 5, 16)
    expected = step(decoder.core, cache, good_batch())
    with pytest.raises((ValueError, TypeError), match=message):
        step(decoder.core, cache, good_batch(), **changes)
    np.testing.assert_array_equal(step(decoder.core, cache, good_batch()), expected)


def test_what_a_window_has_passed_need_not_be_there(decoder: NativeDecoder) -> None:
    config = replace(TINY, sliding_window=5)
    narrow = NativeDecoder(config, SOURCES["float"])
    batch = good_batch()
    step(
        narrow.core,
        narrow.new_cache(4, 5, 16),
        batch,
        sliding_block_table=int32([-1, 1, -1], [2, -1, -1]),
    )
    with pytest.raises(ValueError, match=r"sliding_block_table\[0\]"):  # 20 - 4 = 16 is the first
        step(
            narrow.core,
            narrow.new_cache(4, 5, 16),
            batch,
            positions=int32(19, 20, 21, 22, 0, 1),
            sliding_block_table=int32([-1, 1, -1], [2, -1, -1]),
        )


def test_an_empty_batch_gives_no_rows(decoder: NativeDecoder) -> None:
    none = np.zeros((0, 3), np.int32)
    logits = step(
        decoder.core,
        decoder.new_cache(1, 1, 16),
        good_batch(),
        input_ids=int32(),
        positions=int32(),
        query_start_loc=int32(0),
        full_block_table=none,
        sliding_block_table=none,
        logit_rows=int32(),
    )
    assert logits.shape == (0, TINY.vocab_size)


@pytest.mark.parametrize(
    "changes",
    [
        {"head_dim": 64},
        {"num_key_value_heads": 4},
        {"layer_types": tuple(reversed(TINY.layer_types))},
        {"num_kv_shared_layers": 4},
    ],
    ids=str,
)
def test_a_cache_of_another_model_is_refused(
    decoder: NativeDecoder, changes: dict[str, Any]
) -> None:
    config = replace(TINY, **changes)
    other = make_decoder(config, native=Native())
    cache = other.new_cache(4, 5, 16)
    with pytest.raises(ValueError, match="cache: expected one that was made for this model"):
        step(decoder.core, cache, good_batch())


def test_bad_caches_are_refused(decoder: NativeDecoder) -> None:
    for block_size in (0, 8, 17):
        with pytest.raises(ValueError, match=f"block_size: .*16, got {block_size}"):
            decoder.new_cache(1, 1, block_size)
    with pytest.raises(ValueError, match="num_full_blocks"):
        decoder.new_cache(1 << 60, 1, 16)
    with pytest.raises((ValueError, MemoryError)):
        decoder.new_cache(1, 1 << 40, 16)


def build(weights: dict[str, Any], **changes: Any) -> Gemma3n:
    arguments: dict[str, Any] = {"max_num_batched_tokens": 8, "max_model_len": 64} | changes
    values = core_config(TINY) | arguments.pop("config", {})
    layers = arguments.pop("layers", core_layers(TINY))
    return Gemma3n(values, layers, weights, ThreadPool(1), **arguments)


def test_models_that_do_not_fit_are_refused() -> None:
    weights = pack_weights(TINY, SOURCES["float"], ThreadPool(1), "float32")
    layers = core_layers(TINY)
    build(weights)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"config": {"hidden_size": 96}}, "embed_tokens|expected"),
        ({"config": {"altup_num_inputs": 0}}, "altup_num_inputs"),
        ({"config": {"altup_num_inputs": 17}}, "altup_num_inputs: expected 1 to 16, got 17"),
        ({"config": {"altup_active_idx": 4}}, "altup_active_idx"),
        ({"config": {"num_key_value_heads": 3}}, "heads: expected a multiple"),
        ({"config": {"num_key_value_heads": 0}}, "heads"),
        ({"config": {"head_dim": 31}}, "head_dim: expected an even number"),
        ({"config": {"sliding_window": 0}}, "sliding_window: expected at least 1, got 0"),
        ({"max_num_batched_tokens": 0}, "max_num_batched_tokens: expected at least 1, got 0"),
        ({"max_model_len": 0}, "max_model_len: expected at least 1, got 0"),
        ({"variant": "sse"}, 'variant: expected "best"'),
        ({"layers": []}, "layers: expected one set each"),
        ({"layers": layers[:-1]}, "per_layer|layers"),
        ({"layers": [layers[0] | {"kv_source_layer": 1}, *layers[1:]]}, "kv_source_layer"),
        ({"layers": [layers[0] | {"intermediate_size": 64}, *layers[1:]]}, "gate_proj: expected"),
        ({"layers": [layers[0] | {"std_multiplier": None}, *layers[1:]]}, "rows in a dense layer"),
    ]  # fmt: skip
    for changes, message in refused:
        with pytest.raises(ValueError, match=message):
            build(weights, **changes)
    for name in weights:
        with pytest.raises((ValueError, TypeError)):
            build({key: value for key, value in weights.items() if key != name})
    short = weights["layers.3.input_layernorm.weight"][:-1].copy()
    with pytest.raises(ValueError, match="input_layernorm: expected 128 values, got 127"):
        build(weights | {"layers.3.input_layernorm.weight": short})
    turned = weights["layers.3.mlp.down_proj.weight"]
    with pytest.raises(ValueError, match="gate_proj: expected"):
        build(weights | {"layers.3.mlp.gate_proj.weight": turned})
