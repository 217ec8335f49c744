"""Published configurations: each gives its generation and network, or is refused by the option that asks for another one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.checkpoints.published import recognize
from openglm.presets import model_preset

_CHAT = dict(model_type="chatglm", hidden_size=4096, num_attention_heads=32)
_SIX = dict(
    _CHAT, num_layers=28, inner_hidden_size=16384, max_sequence_length=2048, layernorm_epsilon=1e-5, pad_token_id=3
)
_LATER = dict(
    _CHAT,
    ffn_hidden_size=13696,
    kv_channels=128,
    multi_query_attention=True,
    multi_query_group_num=2,
    add_qkv_bias=True,
)
_GLM4_ENDS = dict(pad_token_id=151329, eos_token_id=[151329, 151336, 151338])
_TEN = dict(
    model_type="glm",
    num_layers=48,
    hidden_size=4096,
    num_attention_heads=64,
    max_sequence_length=1024,
    block_position_encoding=True,
)
PUBLISHED = {
    "chatglm-6b": dict(_SIX, vocab_size=130528, bos_token_id=130004, eos_token_id=130005, mask_token_id=130000, gmask_token_id=130001, position_encoding_2d=True),
    "chatglm-6b-first": dict(_SIX, vocab_size=150528, bos_token_id=150004, eos_token_id=150005, position_encoding_2d=True),
    "chatglm2-6b": dict(_LATER, num_layers=28, padded_vocab_size=65024, seq_length=32768, rmsnorm=True, layernorm_epsilon=1e-5, eos_token_id=2, pad_token_id=0),
    "glm-4-9b-chat": dict(_LATER, **_GLM4_ENDS, num_layers=40, padded_vocab_size=151552, seq_length=131072, layernorm_epsilon=1.5625e-07, rope_ratio=500),
    "glm-4-0414-32b": dict(
        _GLM4_ENDS, model_type="glm4", num_hidden_layers=61, hidden_size=6144, num_attention_heads=48, num_key_value_heads=2, head_dim=128, intermediate_size=23040,
        attention_bias=False, vocab_size=151552, max_position_embeddings=32768, rms_norm_eps=1e-5, rope_theta=10000.0,
    ),
    "glm-10b": dict(_TEN, vocab_size=50304),
    "glm-10b-chinese": dict(_TEN, vocab_size=50048),
    "glm-130b": dict(num_layers=70, hidden_size=12288, num_attention_heads=96, inner_hidden_size=32768, vocab_size=150528, max_sequence_length=2048),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_gives_the_preset(name):
    _, config = recognize(PUBLISHED[name], sharded=True)
    assert config == model_preset(name)


def test_later_chatglm_configurations_are_told_apart():
    names = [
        recognize({**PUBLISHED["chatglm2-6b"], **change})[0]
        for change in ({}, {"seq_length": 8192}, {"_name_or_path": "THUDM/chatglm3-6b-32k"})
    ]
    assert names == ["chatglm2-6b", "chatglm3-6b", "chatglm3-6b"]


@pytest.mark.parametrize(
    ("base", "change", "named"),
    [
        ("chatglm2-6b", {"rmsnorm": False}, "config.rmsnorm = False"),
        ("chatglm2-6b", {"add_bias_linear": True}, "config.add_bias_linear"),
        (
            "chatglm2-6b",
            {"rope_scaling": {"type": "yarn", "factor": 4}},
            r"config.rope_scaling = \{'type': 'yarn'.*than chatglm2-6b is",
        ),
        ("chatglm2-6b", {"partial_rotary_factor": 1.0}, "config.rope_scaling = 1.0"),
        ("glm-4-0414-32b", {"hidden_act": "gelu"}, "hidden_act"),
        ("glm-4-9b-chat", {"vision_config": {}}, "vision part: an unknown generation"),
        ("glm-4-0414-32b", {"model_type": "llama"}, "'llama': an unknown generation; known: ChatGLM-6B"),
        ("glm-4-0414-32b", {"model_type": "glm4_moe"}, "an unknown generation"),
        ("glm-4-0414-32b", {"hidden_size": "wide"}, "model.hidden = 'wide'"),
        ("glm-4-0414-32b", {"num_hidden_layers": 0}, "model.layers = 0"),
        ("glm-10b", {"vocab_size": 1000}, "config.pad_token_id"),
        ("chatglm2-6b", {"rope_ratio": 16, "_name_or_path": "THUDM/chatglm2-6b-32k"}, "config.rope_ratio = 16"),
        ("chatglm-6b", {"bos_token_id": None}, "config.bos_token_id"),
        ("glm-4-0414-32b", {"rope_parameters": [1]}, "rope"),
    ],
)
def test_another_network_is_refused_by_the_option_that_asks_for_it(base, change, named):
    with pytest.raises(ValueError, match=named) as error:
        recognize({**PUBLISHED[base], **change})
    assert "\n" not in str(error.value)


JUNK = st.one_of(st.none(), st.booleans(), st.integers(-5, 10**12), st.floats(), st.text(max_size=4))
JUNK |= st.lists(st.integers(), max_size=3) | st.dictionaries(st.text(max_size=3), st.none(), max_size=2)


@settings(max_examples=100, deadline=None)
@given(base=st.sampled_from(sorted(PUBLISHED)), data=st.data())
def test_any_value_in_a_configuration_is_taken_or_refused_in_one_line(base, data):
    values = dict(PUBLISHED[base])
    for name in data.draw(
        st.lists(st.sampled_from([*values, "rope_scaling", "special", "rope_ratio"]), min_size=1, max_size=3)
    ):
        values[name] = data.draw(JUNK)
    try:
        recognize(values)
    except ValueError as error:
        assert "\n" not in str(error)
