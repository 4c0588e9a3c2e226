"""Strings to try tokenizers on, made from a seed: scripts, emoji, code, odd characters, runs."""

import random
from collections.abc import Iterator

SENTENCES = (
    "The quick brown fox jumps over the lazy dog, doesn't it?",
    "Wie schön, daß die Straße heute früh schon geräumt ist!",
    "L'été dernier, nous avons mangé des crêpes près de la forêt.",
    "El niño pidió una piñata; ¿quién se la dará mañana?",
    "Zażółć gęślą jaźń, a potem odpocznij.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Egy hűtlen vejét fülöncsípő, dühös mexikói úr.",
    "Pijamalı hasta yağız şoföre çabucak güvendi.",
    "Съешь ещё этих мягких французских булок, да выпей чаю.",
    "Ο γρήγορος σκύλος πηδά πάνω από τον φράχτη.",
    "نص حكيم له سر قاطع وذو شأن عظيم.",
    "עטלף אבק נס דרך מזגן שהתפוצץ כי חם.",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण।",
    "আমার সোনার বাংলা, আমি তোমায় ভালোবাসি।",
    "யாமறிந்த மொழிகளிலே தமிழ்மொழி போல்",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า",
    "いろはにほへと ちりぬるを、カタカナも漢字も。",
    "今天天气很好,我们去公园散步吧。",
    "키스의 고유조건은 입술끼리 만나야 하고",
    "Tôi có thể ăn thủy tinh mà không hại gì.",
    "ქართული ენა, Հայերեն լեզու, አማርኛ, ខ្មែរ, ລາວ, བོད་ཡིག",
)
CODE = (
    "def f(x):\n    return x ** 2  # square\n",
    "for (int i = 0; i < n; ++i) { sum += a[i]; }\r\n",
    '{"key": [1, 2.5e-3, null], "ключ": "\\u00e9"}',
    "<table><tr><td>1</td></tr></table></html>",
    "<div><</div>> </b>\t\t<em >",
    "SELECT * FROM t WHERE a<>'b' AND c>=3;",
    "https://example.org/a/b?c=d&e=%20f#g",
    "\\begin{equation} \\frac{1}{2} \\end{equation}",
)
ODD = (
    *(chr(code) for code in range(32)),
    "\x7f", "\x80", "\x85", "\xa0", "\xad", "\u0300", "\u0301\u0302", "\u200b", "\u200d", "\u202e",
    "\u2028", "\u2029", "\u2581", "\u2581\u2581", "\ue000", "\ufeff", "\ufffd", "\uffff",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f44b\U0001f3fd", "\U0001f1e9\U0001f1ea",
    "❤️", "😀", "🤖✨", "\U000e0041", "\U0010ffff", "\U00012345", "ﷺ", "ｆｕｌｌ", "ﬁ",
)  # fmt: skip
NUMBERS = ("0", "7", "42", "1234567890", "3.14159", "1,000,000", "0x0A", "٣٤", "½", "1e-9")
CONTROL_LOOKING = (
    "<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>",
    "<start_of_turn>model\n", "<start_of_image>", "<end_of_image>", "<image_soft_token>",
    "<start_of_audio>", "<end_of_audio>", "<audio_soft_token>", "<unused0>", "<unused12>",
    "<unused6241>", "<0x00>", "<0x0A>", "<0xFF>", "[multimodal]", "[PAD262144]", "</s>", "<s>",
    "<start_of_", "turn>", "<eos", "<<eos>>", "<special_token_262150>", "<|im_start|>",
)  # fmt: skip
RUNS = ("a", "ab", "ha", "abc", "na ", " ", "  ", "\n", "\t", "\n ", "=", "-", "0", "哈", "🙂", "é")


def strings(count: int, seed: int = 0) -> Iterator[str]:
    """`count` strings, the same for the same seed."""
    rng = random.Random(seed)
    plain = (*SENTENCES, *CODE, *ODD, *NUMBERS, *CONTROL_LOOKING)
    yield from plain[:count]
    for _ in range(count - len(plain)):
        yield "".join(_fragment(rng) for _ in range(rng.randint(1, 5)))


def _fragment(rng: random.Random) -> str:
    kind = rng.randrange(7)
    if kind == 0:
        return rng.choice(SENTENCES)
    if kind == 1:
        sentence = rng.choice(SENTENCES + CODE)
        start = rng.randrange(len(sentence))
        return sentence[start : start + rng.randint(1, 20)]
    if kind == 2:
        run = rng.choice(RUNS) * rng.randint(1, 70)
        return run[rng.randrange(3) :]
    if kind == 3:
        return rng.choice(NUMBERS) + rng.choice(" .,-\n")
    if kind == 4:
        return rng.choice(CONTROL_LOOKING)
    if kind == 5:
        return rng.choice(ODD) * rng.randint(1, 3)
    low, high = rng.choice(((0, 0x80), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x20000)))
    return "".join(chr(rng.randrange(low, high)) for _ in range(rng.randint(1, 6)))
