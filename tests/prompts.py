# ruff: noqa: E501  (the texts are what they are)
"""The twelve prompts of the end-to-end verification, and the texts of the tokenizer check."""

from __future__ import annotations

from pathlib import Path

_SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"


def _chat(*turns: str) -> str:
    """User and assistant turns in the model's chat format (spelled out here, not rendered by the library)."""
    roles = ("user", "assistant")
    text = "".join(f"<|im_start|>{roles[i % 2]}\n{turn}<|im_end|>\n" for i, turn in enumerate(turns))
    return _SYSTEM + text + "<|im_start|>assistant\n"


def _licence(characters: int) -> str:
    """A long English text that every clone has."""
    return (Path(__file__).resolve().parents[1] / "LICENSE").read_text(encoding="utf-8")[:characters]


_LONG = (
    "A wafer-scale chip is a grid of several hundred thousand small cores. Each has its own memory of some tens "
    "of kilobytes, and talks only to its four neighbours; a message to a core farther away passes through the "
    "routers in between, and pays for every hop. Whoever multiplies two matrices on such a grid has to decide "
    "where every block of every matrix lives, and who hands which block to whom at what moment. If a block has "
    "to travel all the way back from the end of a row to its beginning, then every step of the algorithm is as "
    "slow as that longest way. The remedy is an old trick of braiding: number the cores of a row so that "
    "neighbours in the numbering are never more than two cores apart on the chip, first all the even places "
    "upwards, then all the odd places downwards. In that order the ring closes with no long way back, and "
)

#: name -> text. Short, long, unicode, code, chat template, digits and blanks, more than 1,000 tokens.
PROMPTS: dict[str, str] = {
    "one_token": "Once",
    "capital": "The capital of France is",
    "rhyme": "Roses are red,\nviolets are",
    "wafer": _LONG,
    "unicode": "Überraschung! Früher war alles größer: 東京は日本の首都です。Москва — столица России. 🦙🚀 naïve café →",
    "arabic": "مرحبا بالعالم، كيف حالك اليوم؟ Shalom: שלום עולם. Namaste: नमस्ते दुनिया.",
    "python": "def fibonacci(n: int) -> int:\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n    if n < 2:\n",
    "c_code": "#include <stdio.h>\n\nint main(void) {\n\tfor (int i = 0; i < 10; i++) {\n\t\tprintf(\"%d\\n\", ",
    "digits": "1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233,  377,\t610; 3.14159 = pi, 2^10 = 1024. 12345678",
    "chat": _chat("What is gravity?"),
    "chat_turns": _chat("Name a primary colour.", "Red.", "Another one, and say in one sentence why it is primary."),
    "licence": _licence(5400),
}

#: More for the tokenizer alone: scripts, runs of blanks, contractions, marks, bytes that are rare.
TEXTS: list[str] = [
    "", " ", "  ", "\n", "\n\n\n", " \t \n x", "a  5", "x =  10;\n\n42", "   leading", "trailing   ",
    "I'm you're we've they'll he'd it's don't I'M DON'T", "price: $1,234.56 (+7.5%)", "0123456789 00 1e-5",
    "Grüße aus Zürich, mañana, façade, smörgåsbord, žluťoučký kůň, Ελλάδα, Україна, Türkçe ışık",
    "中文没有空格，但是有标点。", "日本語のテキスト、カタカナ。", "한국어 텍스트입니다.", "ภาษาไทยไม่มีช่องว่าง", "हिन्दी में पाठ", "বাংলা", "தமிழ்",
    "العربية من اليمين", "עברית", "ქართული", "Հայերեն", "አማርኛ",
    "👩‍👩‍👧‍👦 👍🏽 🇨🇭 ❤️‍🔥", "zero\u200bwidth non\u00a0breaking \ufeffbom e\u0301 combining ½ ² Ⅷ ٣ 五",
    "if (x<y){return x*y;}//ok", "SELECT * FROM t WHERE a='b';", "https://example.org/?q=a%20b&c=1#d",
    "<|im_start|>user\nhi<|im_end|>", "<|endoftext|>", "<|not_a_token|>", "CamelCaseWord snake_case_word kebab-case",
    "\x00\x01\x7f", "\r\nwindows\r\n", "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋ ≠ ∞", "…—–‘’“”", "a" * 60, "1" * 25, " " * 33 + "x",
]
