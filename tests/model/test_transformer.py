"""The network: its definition, its masks and positions, and that cache, padding and packing change nothing."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.families import KINDS, TOKENS, network, prompt, small

from openglm.model.attention import attend, reference_attention, trains_by_products
from openglm.model.generate import generate
from openglm.model.positions import Rotary, describe, training_mask
from openglm.model.transformer import Transformer
from openglm.presets import PRESETS, model_preset


@pytest.mark.parametrize("name", PRESETS)
def test_published_sizes_have_the_parameters_their_papers_give(name):
    published = {
        "glm-10b": 9.88e9,
        "glm-130b": 128.7e9,
        "chatglm-6b": 6.71e9,
        "chatglm2-6b": 6.244e9,
        "glm-4-9b-chat": 9.40e9,
        "glm-4-0414-32b": 32.57e9,
    }
    with torch.device("meta"):
        model = Transformer(model_preset(name))
    count = sum(weight.numel() for weight in model.parameters())
    assert count == model.config.parameters
    if name in published:
        assert math.isclose(count, published[name], rel_tol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_left_padded_batch_equals_single_prompts(kind):
    model = network(small(kind))
    if model.config.positions == "learned_2d":
        pytest.skip("GLM-10B's positions count padding: a padded row differs in the original too")
    prompts = [prompt(model.config, n, n) for n in (5, 11, 8)]
    width = max(map(len, prompts))
    ids = torch.tensor([[TOKENS["pad"]] * (width - len(p)) + p for p in prompts])
    real = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts])
    batch = model.logits(ids, real)
    out = generate(model, ids, 6, real)
    for row, p in enumerate(prompts):
        single = torch.tensor([p])
        torch.testing.assert_close(batch[row, width - len(p) :], model.logits(single)[0], rtol=0, atol=2e-5)
        assert out[row, width:].tolist() == generate(model, single, 6)[0, len(p) :].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_cached_generation_equals_the_whole_pass(kind):
    model = network(small(kind))
    out = generate(model, torch.tensor([prompt(model.config, 9, 1), prompt(model.config, 9, 2)]), 12)
    again = model.logits(out).argmax(-1)
    assert out[:, 9:].tolist() == again[:, 8:-1].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_who_sees_whom(kind):
    """A later token never changes an earlier prediction, but for part A of a prefix model, which is read both ways."""
    config = small(kind)
    model = network(config)
    text = torch.tensor([prompt(config, 9, 3) + [20, 21, 22, 23]])
    before = model.logits(text)[0]
    late, early = text.clone(), text.clone()
    late[0, 11], early[0, 3] = 40, 41
    late_moved = (model.logits(late)[0] - before).abs().amax(-1) > 1e-6
    early_moved = (model.logits(early)[0] - before).abs().amax(-1) > 1e-6
    assert not late_moved[:11].any() and late_moved[11:].all()
    assert early_moved[3:].all() and bool(early_moved[0]) == (config.mask == "prefix")


def test_packed_samples_do_not_see_each_other():
    """A row of two samples gives each the hidden states it has alone."""
    model = network(small("nano"))
    samples = []
    for context, span, seed in ((5, 4, 1), (3, 6, 2)):
        ids = torch.randint(8, 64, (context + span,), generator=torch.Generator().manual_seed(seed))
        positions = torch.stack(
            [torch.arange(context + span), torch.cat([torch.zeros(context), torch.arange(1, span + 1)]).long()]
        )
        samples.append((ids, positions))
    ids, positions = torch.cat([s[0] for s in samples])[None], torch.cat([s[1] for s in samples], 1)[None]
    segment = torch.tensor([[0] * 9 + [1] * 9])
    packed = model(ids, positions, training_mask(segment, positions[:, 1]))
    for i, (alone, where) in enumerate(samples):
        mask = training_mask(torch.zeros(1, 9, dtype=torch.long), where[None, 1])
        torch.testing.assert_close(
            packed[0, 9 * i : 9 * i + 9], model(alone[None], where[None], mask)[0], rtol=0, atol=1e-5
        )


def test_training_mask_equals_the_family_rule():
    """The mask a packed row is trained with is the one its ids are given at inference."""
    config = small("nano")
    ids = torch.tensor([[TOKENS["mask"], 11, TOKENS["mask"], 12, TOKENS["sop"], 13, 14, TOKENS["sop"], 15]])
    positions, mask = describe(ids, None, config)
    assert positions[0].tolist() == [[0, 1, 2, 3, 0, 0, 0, 2, 2], [0, 0, 0, 0, 1, 2, 3, 1, 2]]
    assert torch.equal(mask, training_mask(torch.zeros_like(ids), positions[:, 1]))


@pytest.mark.parametrize("kind", ["glm-4-9b-chat", "nano, gapped"])
def test_a_causal_model_is_trained_with_the_mask_it_has_at_inference(kind):
    """A conversation: what stands before <sop> is laid out as part A, which such a model reads forward all the same."""
    ids = torch.tensor([[11, 12, 13, TOKENS["gmask"], TOKENS["sop"], 14, 15]])
    config, block = small(kind), torch.tensor([[0, 0, 0, 0, 1, 2, 3]])
    assert torch.equal(describe(ids, None, config)[1], training_mask(torch.zeros_like(ids), block, config.mask))
    assert not torch.equal(describe(ids, None, config)[1], training_mask(torch.zeros_like(ids), block))


def test_the_kth_span_stands_at_the_kth_blank():
    ids = torch.tensor([[TOKENS["mask"], 11, TOKENS["smask"], 12, TOKENS["sop"], 13, TOKENS["sop"], 15]])
    assert describe(ids, None, small("nano"))[0][0, 0].tolist() == [0, 1, 2, 3, 0, 0, 2, 2]


def test_beyond_the_last_blank_a_start_is_a_token_like_any_other():
    ids = torch.tensor([[TOKENS["mask"], 11, TOKENS["sop"], 12, TOKENS["sop"], 13]])
    assert describe(ids, None, small("chatglm-6b"))[0][0].tolist() == [[0, 1, 0, 0, 0, 0], [0, 0, 1, 2, 3, 4]]


def test_each_family_has_its_own_order_of_blanks():
    """Positions of <sop> and the token after it, for [gMASK] alone and for [gMASK] before and behind [MASK]."""
    cases = ([TOKENS["gmask"], 11, 11], [TOKENS["gmask"], 11, TOKENS["mask"]], [TOKENS["mask"], 11, TOKENS["gmask"]])
    expected = {
        "glm-10b": [[0, 0], [0, 0], [0, 0]], "glm-130b": [[3, 4], [2, 2], [0, 0]],
        "chatglm-6b": [[0, 0], [0, 0], [2, 2]], "chatglm-6b-first": [[3, 0], [2, 2], [0, 0]],
    }  # fmt: skip
    for kind, positions in expected.items():
        found = [
            describe(torch.tensor([[*case, TOKENS["sop"], 12]]), None, small(kind))[0][0, 0, 3:].tolist()
            for case in cases
        ]
        assert found == positions, kind


def test_gmask_positions_run_on_or_stay():
    ids = torch.tensor([[10, 11, TOKENS["gmask"], TOKENS["sop"], 12, 13]])
    assert describe(ids, None, small("glm-130b"))[0][0].tolist() == [[0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 2, 3]]
    assert describe(ids, None, small("chatglm-6b"))[0][0].tolist() == [[0, 1, 2, 2, 2, 2], [0, 0, 0, 1, 2, 3]]


def test_a_start_without_a_blank_is_refused():
    with pytest.raises(ValueError, match=r"row 0.*MASK"):
        describe(torch.tensor([[10, 11, TOKENS["sop"], 12]]), None, small("nano"))


@pytest.mark.parametrize("layout", ["rope", "rope_2d", "rope_half"])
def test_rotary_scores_depend_on_distance_alone(layout):
    """Moving query and key by the same amount changes no score; moving one of them does (arXiv 2104.09864, equation 11)."""
    rotary = Rotary(small("nano", positions=layout))
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0))

    def score(at_q: int, at_k: int) -> float:
        def turn(x, at):
            return rotary(x, rotary.angles(torch.full((1, 2, 1), at)))

        return float((turn(q, at_q) * turn(k, at_k)).sum())

    assert math.isclose(score(9, 4), score(25, 20), abs_tol=1e-5)
    assert abs(score(9, 4) - score(9, 5)) > 1e-4


@pytest.mark.parametrize("heads,kv_heads", [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("layer_scaling", [False, True])
def test_attention_equals_its_definition(heads, kv_heads, layer_scaling):
    config = small("nano", heads=heads, kv_heads=kv_heads, qk_layer_scaling=layer_scaling, qk_norm=False)
    attention = network(config).blocks[2].attention
    x = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(1))
    mask = torch.rand(2, 1, 7, 7, generator=torch.Generator().manual_seed(2)) < 0.5
    mask |= torch.eye(7, dtype=torch.bool)
    q, k, v = (
        p(x).unflatten(-1, (-1, 8)).transpose(1, 2) for p in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    k, v = (t.repeat_interleave(heads // kv_heads, 1) for t in (k, v))
    expected = attention.o_proj(reference_attention(q, k, v, mask).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, None, None, mask, None), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_trained_in_bfloat16_is_as_exact_as_the_fused_kernel(kv_heads, masked):
    """Plain products take its place on a processor: output and gradients are as near to those of fp32."""
    generator = torch.Generator().manual_seed(3)
    leaves = [torch.randn(2, heads, 40, 16, generator=generator) for heads in (4, kv_heads, kv_heads)]
    towards = torch.randn(2, 4, 40, 16, generator=generator)
    segment = torch.arange(40) // 15
    mask = (segment[:, None] == segment)[None, None] & torch.ones(40, 40, dtype=torch.bool).tril() if masked else None

    def run(by, dtype):
        inputs = [leaf.to(dtype).requires_grad_() for leaf in leaves]
        out = by(*inputs, mask, 0.5)  # scores of 2 and more, where the softmax is sharp
        return out, *torch.autograd.grad(out, inputs, towards.to(dtype))

    def fused(q, k, v, mask, scale):
        k, v = (x.repeat_interleave(4 // kv_heads, dim=1) for x in (k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale)

    exact = run(fused, torch.float32)
    ours, theirs = (
        [
            float(((x.float() - y).norm() / y.norm()).detach())
            for x, y in zip(run(by, torch.bfloat16), exact, strict=True)
        ]
        for by in (attend, fused)
    )
    assert trains_by_products(leaves[0].bfloat16().requires_grad_(), 40)
    assert all(mine < 1.5 * other for mine, other in zip(ours, theirs, strict=True)), (ours, theirs)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "geglu", "swiglu"])
def test_feed_forward_formulas(activation):
    ffn = network(small("nano", activation=activation)).blocks[0].ffn
    x = torch.randn(3, 32)
    up = ffn.up_proj(x)
    inner = {
        "gelu": lambda: up * 0.5 * (1 + torch.erf(up / math.sqrt(2))),
        "gelu_tanh": lambda: 0.5 * up * (1 + torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3))),
        "geglu": lambda: up * F.gelu(ffn.gate_proj(x)),
        "swiglu": lambda: up * ffn.gate_proj(x) * torch.sigmoid(ffn.gate_proj(x)),
    }[activation]()
    torch.testing.assert_close(ffn(x), F.linear(inner, ffn.down_proj.weight), rtol=1e-4, atol=1e-4)


def test_deepnorm_residual_leaves_the_norm():
    """x = LN(h); h = alpha x + f(x), twice (the form GLM-130B's code has)."""
    block = network(small("glm-130b")).blocks[0]
    h, mask = torch.randn(1, 4, 32), torch.ones(1, 1, 4, 4, dtype=torch.bool)
    x = block.attention_norm(h)
    y = math.sqrt(6) * x + block.attention(x, None, None, mask, None)
    z = block.ffn_norm(y)
    torch.testing.assert_close(block(h, None, None, mask, None), math.sqrt(6) * z + block.ffn(z))


def test_gradient_shrink_scales_the_input_gradient_alone():
    """Same values forward; the table's gradient through the input is `shrink` times as large (GLM-130B, section 2.1)."""
    grads = []
    for shrink in (1.0, 0.1):
        model = network(small("glm-130b", tied=False, embedding_gradient_shrink=shrink))
        ids = torch.tensor([prompt(model.config, 8, 5)])
        positions, mask = describe(ids, None, model.config)
        hidden = model(ids, positions, mask)
        model.project(hidden).square().mean().backward()
        grads.append((hidden.detach(), model.embedding.weight.grad, model.blocks[0].ffn.up_proj.weight.grad))
    torch.testing.assert_close(grads[0][0], grads[1][0])
    torch.testing.assert_close(grads[0][1] * 0.1, grads[1][1])
    torch.testing.assert_close(grads[0][2], grads[1][2])


def test_activation_checkpointing_changes_no_gradient():
    model = network(small("nano"))
    model.train()
    ids = torch.tensor([prompt(model.config, 12, 5)])
    positions, mask = describe(ids, None, model.config)
    grads = []
    for on in (False, True):
        model.activation_checkpointing = on
        model.zero_grad()
        model.project(model(ids, positions, mask)).square().mean().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for plain, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=0, atol=0)


def test_stop_ids_end_a_row_and_fill_the_rest():
    model = network(small("nano"))
    ids = torch.tensor([prompt(model.config, 6, 1), prompt(model.config, 6, 2)])
    free = generate(model, ids, 10)
    stop = int(free[0, 8])
    stopped = generate(model, ids, 10, stop_ids=(stop,))
    for row in range(2):
        answer = free[row, 6:].tolist()
        keep = answer.index(stop) + 1 if stop in answer else 10
        width = stopped.shape[1] - 6
        assert stopped[row, 6:].tolist() == (answer[:keep] + [TOKENS["pad"]] * 10)[:width]


def test_sampling_follows_the_distribution():
    """Draws at temperature T and top-p match the renormalized softmax within 5 standard errors."""
    from openglm.model.generate import sample

    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -3.0]])
    p = torch.softmax(logits[0] / 0.7, -1)
    kept = torch.where(p.cumsum(0) - p < 0.9, p, 0.0)
    kept = kept / kept.sum()
    draws = sample(logits.expand(20000, -1), 0.7, 0.9, torch.Generator().manual_seed(0)).bincount(minlength=5) / 20000
    assert ((draws - kept).abs() <= 5 * (kept * (1 - kept) / 20000).sqrt() + 1e-9).all()


@pytest.mark.parametrize(
    "ids,new,message",
    [
        ([[1] * 60 + [4]], 8, "context of 64"),
        ([[99, 4]], 1, "vocabulary"),
        ([[-1, 4]], 1, "vocabulary"),
        ([[]], 1, "at least one"),
        ([[10, 11]], 1, "no <sop>"),
        ([[2, 4]], -1, "negative"),
    ],
)
def test_bad_prompts_are_one_line_errors(ids, new, message):
    with pytest.raises(ValueError, match=message) as error:
        generate(network(small("nano")), torch.tensor(ids, dtype=torch.long), new)
    assert "\n" not in str(error.value)


def test_wrong_options_name_the_option_and_the_way_out():
    base = dataclasses.asdict(small("nano"))
    wrong = [(dict(norm="batch"), "layernorm")]
    wrong += [
        (dict(kv_heads=3), "heads"),
        (dict(layers=0), "positive"),
        (dict(head_dim=6, positions="rope_2d"), "multiple of 4"),
        (dict(sise=1), "known"),
    ]
    for change, word in wrong:
        with pytest.raises(ValueError, match=word):
            model_preset("nano", **{**base, **change})
    with pytest.raises(ValueError, match=r"glm-130b"):
        model_preset("glm-130bb")
