import pytest
from helpers.pairs import SHAPE, tiny_model, write_chats
from helpers.threads import one_thread as one_thread
from helpers.tiny_runs import options

from openglm.config import DataConfig, OptimizerConfig, SFTConfig
from openglm.train.sft import sft


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """Folder of a tiny model with nano's tokenizer."""
    return tiny_model(tmp_path_factory.mktemp("base") / "model", SHAPE)


@pytest.fixture(scope="session")
def talker(base, tmp_path_factory):
    """The tiny model after a short tuning: it answers `please, WORD` or `no, WORD` about equally often, and ends."""
    folder = tmp_path_factory.mktemp("talker")
    chats = write_chats(folder / "chats.jsonl", 64)
    train = options(
        folder / "run", seq_len=SHAPE.max_positions, steps=120, batch_rows=8, accumulation=1, save_every=120
    )
    data = DataConfig(dialogues={"chat": str(chats)})
    result = sft(SFTConfig(init_from=str(base), train=train, data=data, optimizer=OptimizerConfig(lr=1e-2)))
    return result.model
