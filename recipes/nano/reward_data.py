"""Questions whose answers can be checked, for `glm grpo`: `python recipes/nano/reward_data.py --out DIR --text TEXTS`.

Writes verse.jsonl and sums.jsonl, and -heldout.jsonl of each: other themes, other numbers. With the folder of texts that
build_corpus.py wrote also poems.jsonl, conversations to begin with: the quatrains of Tang and Song that keep all rules.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import tyro
from chat_text import metre

from openglm.align.verse import judge
from openglm.files import write_file

ASKS = ["写一首关于{}的{}", "请写一首{}，主题是{}", "以{}为题写一首{}", "来一首写{}的{}", "我想读一首关于{}的{}"]
NAMES = {5: ["五言绝句", "五绝"], 7: ["七言绝句", "七绝"]}
THEMES = (
    "春 夏 秋 冬 山 水 江 河 湖 海 风 雨 雪 霜 云 月 日 星 花 草 柳 松 竹 梅 兰 菊 桃 杏 荷 莲 燕 雁 莺 蝉 马 鹤 鱼 鸟 舟 帆 "
    "酒 茶 琴 棋 书 剑 灯 钟 楼 寺 桥 村 城 关 塞 路 门 窗 别离 思乡 送别 怀古 边塞 田家 山中 江上 月夜 春日 秋夜 夕阳 落花 流水 故人 少年 "
    "渔父 樵夫 早行 夜泊 登高 归来 春风 秋风 明月 白云 青山 杨柳 梨花 芳草 孤舟 寒食 重阳 除夕 清明 归雁 杜鹃 塞上 长安 江南 洞庭 西湖 金陵 "
    "蜀道 扬州 庐山 黄河 长江 暮雨 晓寒 晚钟 烟波 霜叶"
)
HELDOUT = (
    "秋月 春雨 夜雨 雪夜 溪 泉 露 烟 霞 虹 石 林 杨 槐 桂 海棠 牡丹 芙蓉 鹭 鸥 猿 蝶 萤 笛 鼓 镜 扇 衣 亭 寺 僧 客 渡口 驿 农夫 牧童 采莲 "
    "望月 听雨 赏花 独坐 夜坐 山居 闲居 旅宿 相思 忆友 春晓 秋思 晚秋 初夏 早春 寒夜 雨后 雪后 黄昏 洛阳 越中 潇湘 巴山 天山 玉门"
)
SUMS = ["{a}{s}{b}等于几？", "{a}{s}{b}是多少？", "{a} {s} {b} = ?", "what is {a} {s} {b}?", "{a} {s} {b}"]


def verse(themes: list[str], rng: Random) -> list[dict[str, object]]:
    """Each theme with each form of the question and each metre."""
    found: list[dict[str, object]] = []
    for theme in themes:
        for ask in ASKS:
            for width, names in NAMES.items():
                found.append({"prompt": asked(ask, theme, rng.choice(names)), "width": width, "theme": theme})
    return found


def sums(rng: Random, heldout: float) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Sums, differences and products of numbers to 20 (products: 9); `heldout` of the pairs are kept out of the first."""
    sides: tuple[list[dict[str, object]], list[dict[str, object]]] = ([], [])
    for sign in "+-×":
        top = 9 if sign == "×" else 20
        for a in range(top + 1):
            for b in range(a + 1 if sign == "-" else top + 1):
                answer = {"+": a + b, "-": a - b, "×": a * b}[sign]
                side = sides[rng.random() < heldout]
                known = {"answer": answer, "response": f"{a} {sign} {b} = {answer}"}
                side += [{"prompt": ask.format(a=a, s=sign, b=b), **known} for ask in SUMS]
    return sides


def poems(folder: Path, rng: Random) -> list[dict[str, object]]:
    """Old poems as answers, each to a theme that it names; no held-out theme is asked for."""
    found: list[dict[str, object]] = []
    known = [theme for theme in THEMES.split() if theme not in HELDOUT.split()]
    for name in ("poetry-tang", "poetry-song"):
        for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            title, *body = json.loads(line)["text"].split("\n")
            text = "\n".join(part for part in body if part.endswith("。"))
            themes = [theme for theme in known if theme in title + text]
            width = metre(text)
            if themes and width in NAMES and judge(text).whole:
                question = asked(rng.choice(ASKS), rng.choice(themes), rng.choice(NAMES[width]))
                found.append({"prompt": question, "response": text})
    return found


def asked(ask: str, theme: str, name: str) -> str:
    return ask.format(*((name, theme) if ask == ASKS[1] else (theme, name)))


def write_all(out: Path, files: dict[str, list[dict[str, object]]], rng: Random) -> None:
    """Each list of records, shuffled, in a file of its name; says how many there are."""
    out.mkdir(parents=True, exist_ok=True)
    for name, records in files.items():
        rng.shuffle(records)
        write_file(out / f"{name}.jsonl", "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records))
        print(f"{name}: {len(records)} records")


def main(out: Path, text: Path | None = None, seed: int = 1, heldout: float = 0.2) -> None:
    """Write the questions into `out`. heldout: share of the pairs of numbers that are only measured."""
    rng = Random(seed)
    files: dict[str, list[dict[str, object]]] = {
        "verse": verse([theme for theme in THEMES.split() if theme not in HELDOUT.split()], rng),
        "verse-heldout": verse(HELDOUT.split(), rng),
    }
    files["sums"], files["sums-heldout"] = sums(rng, heldout)
    if text:
        files["poems"] = poems(text, rng)
    write_all(out, files, rng)


if __name__ == "__main__":
    tyro.cli(main)
