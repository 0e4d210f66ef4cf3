"""Texts in many scripts, and Hypothesis strategies that generate more of them."""

from hypothesis import strategies as st

SCRIPTS = {
    "Latin": "Größe naïve Ünïcode, don’t! L'été: ça va? Z\u0301ly e\u0301te\u0301",
    "Cyrillic": "Съешь ещё этих мягких французских булок — да выпей чаю.",
    "Greek": "Η ΟΔΟΣ είναι μακρά· ἄνθρωπος;",
    "Arabic": "السَّلامُ عَلَيْكُمْ، كيف حالك؟ ١٢٣",
    "Hebrew": "בְּרֵאשִׁית בָּרָא אֱלֹהִים, ירושלים",
    "Devanagari": "नमस्ते दुनिया, क्षत्रिय। १२३",
    "Thai": "สวัสดีชาวโลก ที่นี่กรุงเทพฯ",
    "CJK": "日本語のテキスト。漢字、𠮷野家「中文」",
    "Hangul": "안녕하세요 세계, 한국어 \u1112\u1161\u11ab",
    "emoji": "👩‍👩‍👧‍👦 👍🏽👍 🏳️‍🌈 🇩🇪 ❤️!",
    "line ends": "a\r\nb\n\n\n  c\rd\n\r\n \n\te  \n",
    "spaces": "  a   b\tc\t\td\u00a0e\u00a0\u00a0f\u2009g\u3000h\u200bi\x85j\u2028k\x1cl  ",
    "controls": "\0a\0\0 \0b\x7f\x1b[0m\ufeff\ufffd\uffff",
    "lone marks": "\u0301 \u0301\u0302a \u20d0 \u094d \u200d\ufe0f",
    "signs": "x<=>y _a_b_ 3.14 1,000 ... --- «q» ½ ² Ⅷ <pad><unk> <start> <end> \\xe2 bytes:\\xe2",
}
ALL = "\n".join(SCRIPTS.values())

_anything = st.characters(exclude_categories=["Cs"])
# From one script or a few characters, so that words repeat; or from any characters.
texts = st.one_of(
    *(st.text(alphabet=sorted(set(script)), max_size=60) for script in SCRIPTS.values()),
    st.text(alphabet=sorted(set(ALL)), max_size=60),
    st.text(alphabet=_anything, max_size=60),
    st.text(alphabet="ab'’ \n\t\r\0é", max_size=60),
)
