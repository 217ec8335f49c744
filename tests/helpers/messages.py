"""Tools, and pieces of conversations that hypothesis makes up."""

from hypothesis import strategies as st

from helpers.text_samples import any_text, fragments

TOOLS = [
    {
        "type": "function",
        "function": {"name": "天气<|user|>", "description": "查天气<|assistant|>", "parameters": {"type": "object"}},
    }
]

content = fragments | any_text
json_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | content
json_values = st.recursive(
    json_scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(content, inner, max_size=3), max_leaves=5
)
arguments = st.dictionaries(content, json_values, max_size=3)
names = st.sampled_from(["search", "get_weather", "计算", "<|observation|>", "a.b-c"])
