"""The rules of quatrains, tried on poems that everyone knows and whose forms are told in every handbook."""

import pytest

from openglm.align.checks import CHECKS
from openglm.align.verse import judge
from openglm.data.prompts import prompt

REGULATED = {
    "登鹳雀楼": "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。",
    "早发白帝城": "朝辞白帝彩云间，千里江陵一日还。两岸猿声啼不住，轻舟已过万重山。",
    "出塞": "秦时明月汉时关，万里长征人未还。但使龙城飞将在，不教胡马度阴山。",
    "清明": "清明时节雨纷纷，路上行人欲断魂。借问酒家何处有，牧童遥指杏花村。",  # its first line rhymes with a class beside
    "绝句": "两个黄鹂鸣翠柳，一行白鹭上青天。窗含西岭千秋雪，门泊东吴万里船。",
    "枫桥夜泊": "月落乌啼霜满天，江枫渔火对愁眠。姑苏城外寒山寺，夜半钟声到客船。",
}
FREE = {
    "静夜思": "床前明月光，疑是地上霜。举头望明月，低头思故乡。",  # old style: its tones do not alternate
    "春晓": "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。",  # rhymes in oblique tones
    "江雪": "千山鸟飞绝，万径人踪灭。孤舟蓑笠翁，独钓寒江雪。",
}


@pytest.mark.parametrize("name", REGULATED)
def test_regulated_quatrains_keep_all_rules(name):
    poem = REGULATED[name]
    assert judge(poem).whole and judge(poem.replace("。", "\n")).whole
    assert judge(poem, 5).whole == (len(poem) == 24)


@pytest.mark.parametrize("name", FREE)
def test_quatrains_in_the_old_style_do_not(name):
    verdict = judge(FREE[name])
    assert verdict.form == 1 and not verdict.whole
    assert verdict.rhyme == (1 if name == "静夜思" else 0)


def test_each_rule_is_broken_alone():
    poem = REGULATED["早发白帝城"]
    assert judge(poem.replace("山。", "水。")).rhyme == 0
    assert judge(poem.replace("山。", "还。")).rhyme == 0  # a character does not rhyme with itself
    assert judge(poem.replace("间，", "东，")).rhyme == 0.5  # the first line rhymes with another class, not beside
    swapped = judge(poem.replace("千里江陵", "江陵千里"))
    assert swapped.tones < 1 and swapped.rhyme == 1
    assert judge("君问归期未有期，巴山夜雨涨秋池。何当共剪西窗烛，却话巴山夜雨时。").fresh == 0
    for broken in (
        "",
        "春。夏。秋。冬。",
        poem[:-2] + "。",
        poem + poem,
        "long ago, the hill. a tree, the sea.",
        poem + "好诗",
    ):
        assert judge(broken).form == 0


def test_the_reward_grows_with_what_is_kept():
    asked = prompt({"prompt": "写一首关于山的七言绝句", "width": 7, "theme": "山水"})
    poem = REGULATED["早发白帝城"]
    worse = [poem, poem.replace("山。", "舟。"), poem.replace("江陵", "不"), "我不会写诗。"]
    rewards = [CHECKS["verse"](asked, text) for text in worse]
    assert rewards[0] == 1 and rewards[-1] == 0 and rewards == sorted(rewards, reverse=True) and rewards[1] < 1
    assert CHECKS["verse"](prompt({"prompt": "x", "width": 5}), poem) == 0
    with pytest.raises(ValueError, match="width = 6"):
        CHECKS["verse"](prompt({"prompt": "x", "width": 6}), poem)
