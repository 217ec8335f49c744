"""How much answers share with true ones: BLEU-4 and ROUGE as the P-Tuning scripts of ChatGLM-6B count them."""

import statistics
from collections.abc import Sequence

from openglm.config import require

SCORES = ("bleu-4", "rouge-1", "rouge-2", "rouge-l")


def overlap(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Means over the answers, from 0 to 100. BLEU-4: of characters, an answer at a time, smoothed (method 3 of Chen and
    Cherry 2014). ROUGE: F-measures of words as jieba cuts them. Raises ValueError where the packages are missing."""
    found = [_scores(*pair) for pair in zip(answers, references, strict=True)]
    return {name: statistics.fmean(column) for name, column in zip(SCORES, zip(*found, strict=True), strict=True)}


def require_packages() -> None:
    """Raises ValueError with the line that installs what `overlap` needs."""
    try:
        import jieba  # noqa: F401
        import rouge_chinese  # noqa: F401
        import sacrebleu  # noqa: F401
    except ImportError as error:
        require(False, "answers", error.name, "is not installed; run: pip install 'openglm[eval]'")


def _scores(answer: str, reference: str) -> tuple[float, ...]:
    import jieba
    import rouge_chinese
    import sacrebleu

    jieba.setLogLevel(60)
    words, wanted = (" ".join(word for word in jieba.cut(text) if word.strip()) for text in (answer, reference))
    if not words or not wanted:
        return (0.0,) * len(SCORES)
    bleu = sacrebleu.sentence_bleu(answer, [reference], smooth_method="exp", tokenize="char").score
    (rouge,) = rouge_chinese.Rouge().get_scores(words, wanted)
    return bleu, *(100 * rouge[name]["f"] for name in SCORES[1:])
