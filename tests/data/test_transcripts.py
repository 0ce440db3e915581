"""Label texts in the style of a pretrained speech recogniser."""

import pytest

from hf_unlearn.data import load_speech, prepare
from hf_unlearn.data.speech.transcripts import as_sentence, in_vocabulary, own_or
from hf_unlearn.experiments.speech.tiny_ctc import build_character_tokenizer


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("MISTER QUILTER IS THE APOSTLE", " Mister quilter is the apostle."),
        ("'tis  so", " 'Tis so."),
        ("Paris is large", " Paris is large."),
        ("Is it?", " Is it?"),
        ("ÜBER ALLES", " Über alles."),
        ("नमस्ते दुनिया", " नमस्ते दुनिया"),
        ("12", " 12"),
        (" ", ""),
    ],
)
def test_a_sentence_as_whisper_writes_it(text, sentence):
    assert as_sentence(text) == sentence


def test_i_is_a_capital_in_english_alone():
    assert as_sentence("SAID I I'M IN", english=True) == " Said I I'm in."
    assert as_sentence("SONO I MIEI") == " Sono i miei."


def test_a_language_without_spaces_gets_none_in_front():
    assert as_sentence("你好世界", spaced=False) == "你好世界"


@pytest.mark.parametrize(
    ("said", "reference", "label"),
    [
        (" Hello, world!", "HELLO WORLD", " Hello, world!"),
        (" Hello, word!", "HELLO WORLD", " Hello world."),
        (" Hello, hello, hello", "", " Hello, hello, hello"),
        (None, "HELLO", " Hello."),
        (" ", "UM", " Um."),
        (" ", "", ""),
    ],
)
def test_own_transcript_if_it_agrees_or_there_is_no_reference(said, reference, label):
    def agree(one, other):
        return (
            "".join(filter(str.isalpha, one)).lower() == "".join(filter(str.isalpha, other)).lower()
        )

    assert own_or(said, reference, as_sentence(reference), agree) == label


def test_label_texts_do_not_change_the_text(make_rows, processor):
    texts = ["three four"] * 12
    rows = prepare(make_rows(), processor, max_label_length=8, label_texts=texts)
    assert rows[0]["labels"] == [1, 6, 7, 2] and rows[0]["text"] == "one two"
    # Other label texts have another key in the cache.
    assert prepare(make_rows(), processor, max_label_length=8)[0]["labels"] == [1, 4, 5, 2]


def test_a_row_without_text_gets_the_text_of_its_label(make_rows, processor):
    rows = prepare(make_rows(text=""), processor, max_label_length=8, label_texts=[" one"] * 12)
    assert set(rows["text"]) == {"one"}


def test_a_source_needs_transcripts_unless_they_are_optional(folder):
    path = folder / "metadata.csv"
    path.write_text(
        "\n".join(
            ",".join(line.split(",")[i] for i in (0, 1, 3))
            for line in path.read_text().splitlines()
        )
    )
    rows = load_speech(folder, split="train", speaker_column="speaker", text_optional=True)
    assert set(rows["text"]) == {""} and len(rows) == 4
    with pytest.raises(ValueError, match="no text column 'text'"):
        load_speech(folder, split="train", speaker_column="speaker")


class TestInVocabulary:
    """Texts in the letters of a CTC tokenizer."""

    @pytest.mark.parametrize(
        ("characters", "text", "wanted"),
        [
            ("ABC'", "Abba's, cab!", "ABBA'S CAB"),
            ("ABC'", "a\N{RIGHT SINGLE QUOTATION MARK}b - c", "A'B C"),
            ("abc", "ABC. Cab", "abc cab"),
            # both cases, and a full stop of its own
            ("aAbB.", "Ab. Ba!", "Ab. Ba"),
            # unknown letters stay, so that they can be named
            ("ABC", "äb", "ÄB"),
            ("कलु", "कुल।", "कुल"),
        ],
    )
    def test_case_and_punctuation_are_those_of_the_tokenizer(self, characters, text, wanted):
        tokenizer = build_character_tokenizer([characters])
        assert in_vocabulary(text, tokenizer) == wanted
