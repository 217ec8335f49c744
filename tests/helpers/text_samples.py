"""What this room's tests train on and feed in."""

from hypothesis import strategies as st

from openglm.text import SPECIAL_TOKENS

LINES = (
    "今天天气很好，我们一起去公园散步。你想去哪里？北京是中国的首都！",
    "The weather is fine today; we walk in the park. Where do you want to go? It's a good question!",
    "问：一个苹果三元，五个苹果多少钱？\n答：十五元。人工智能可以回答问题：它读书，写诗，算数……",
    "def add(a, b):\n    return a + b  # 12 + 30 = 42\n\nprint(add(1, 2)) \n \n \r\n",
    "A language model predicts the next word of a text, e.g. \"the cat sat on the mat\". We don't know how it'll end.",
    "　　从前有一座山，山上有一座庙；庙里有一个老和尚，给小和尚讲故事。<|user|>[MASK]<eop> [gMASK]<sop>",
)
TEXTS = [line * 8 for line in LINES]
VOCAB_SIZE = 584

any_text = st.text(st.characters(exclude_categories=("Cs",)))
fragments = st.lists(
    st.sampled_from(
        [
            *SPECIAL_TOKENS,
            "<|",
            "|>",
            "[",
            "]",
            "MASK",
            "gM",
            "<",
            ">",
            "user",
            "ass",
            "istant",
            "<s",
            "op>",
            " ",
            "\n",
            "你好",
            "▁",
            "Ġ",
            "<0x00>",
        ]
    )
).map("".join)
