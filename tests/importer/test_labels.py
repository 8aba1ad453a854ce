"""Label files: every form, and nothing but names is ever served as a label."""

import json
import re
from pathlib import Path

import pytest

from importer.errors import ImportRefused
from importer.labels import LabelFile, check_label_count, read_labels


def read(tmp_path: Path, content: str | bytes) -> LabelFile:
    data = content.encode() if isinstance(content, str) else content
    (tmp_path / "labels").write_bytes(data)
    return read_labels(tmp_path / "labels")


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ("\ufeffcat\r\ndog\r\nred fox\r\n\r\n", ("cat", "dog", "red fox")),
        (" cat \rdog\t\rred fox", ("cat", "dog", "red fox")),
        ('{"1": ["n02084071", "dog"], "0": ["n02123045", "cat"]}', ("cat", "dog")),
        (json.dumps({"10": "k", **{str(i): str(i) for i in range(10)}}), (*"0123456789", "k")),
        # U+2028 and U+0085 end a line for str.splitlines, but not in a text file; names may repeat.
        ("é\n猫\na\u2028b\x85c\né", ("é", "猫", "a\u2028b\x85c", "é")),
        ("e\u0301", ("é",)),  # as macOS writes it
        (r'["e\u0301"]', ("é",)),
        ('{"model_type": "vit", "id2label": {"1": "dog", "0": "cat"}}', ("cat", "dog")),
        ("Grade: 0\nGrade: 1\n", ("Grade: 0", "Grade: 1")),
        # In a JSON list, text that looks like an index or a header is a name.
        ('["1, 2", "label"]', ("1, 2", "label")),
    ],
)
def test_every_form_gives_the_names_in_order(
    tmp_path: Path, content: str, labels: tuple[str, ...]
) -> None:
    assert read(tmp_path, content) == LabelFile(labels=labels)


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ("0|cat\n1|dog\n2|red fox\n", "first column .* index .* 0, .*: .0.cat. is 'cat', class 0"),
        ("1\tcat\n2\tdog\n3\tred fox\n", r"from 1, and left out: '1\\tcat' is 'cat', class 0"),
        ("2;red fox\n0;cat\n1;dog\n", "'2;red fox' is 'red fox', class 2"),
        ("n01440764 cat\nn01443537 dog\nn01484850 red fox\n", "WordNet ids in front of the names"),
        ("id,name\n0,cat\n1,dog\n2,red fox\n", "line 1, 'id,name', is taken for a header"),
        (",label\n0,cat\n1,dog\n2,red fox\n", "line 1, ',label', is taken for a header"),
        ("'cat',\n'dog',\n'red fox'\n", "quotes in 3 lines are removed"),
        ('0,"cat"\n1,"dog"\n2,red fox\n', "quotes in 2 lines are removed"),
        ('"index","name"\n"2","red fox"\n"0","cat"\n"1","dog"\n', "quotes in 3 lines"),
        ("'0': 'cat',\n'2': 'red fox',\n'1': 'dog',\n", "'0: cat' is 'cat', class 0"),
        ('"0;cat"\n"1;dog"\n"2;red fox"\n', "'0;cat' is 'cat', class 0"),
    ],
)
def test_text_beside_the_names_is_removed_with_a_note(
    tmp_path: Path, content: str, note: str
) -> None:
    found = read(tmp_path, content)

    assert found.labels == ("cat", "dog", "red fox")
    assert re.search(note, "; ".join(found.notes))


def test_a_number_after_another_separator_than_the_index_belongs_to_the_name(
    tmp_path: Path,
) -> None:
    assert read(tmp_path, "0,Grade: 1\n1,Grade: 2\n").labels == ("Grade: 1", "Grade: 2")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "holds no label"),
        ("cat\n\ndog\n", "name of class 1 is empty"),
        ('["cat", null]', "class 1 is null, expected a name"),
        ('{"0": "cat", "2": "dog"}', "class 1 has none; .* each id from 0 to 1 once"),
        ('{"0": "cat", "0": "dog", "1": "fox"}', "class 2 has none"),
        ('{"cat": "felis"}', "class 0 has none; expected id → name"),
        ('{"cat": 0, "dog": 1}', "is name → id, as ImageFolder's class_to_idx"),
        ('["cat", "dog"', "starts like JSON, but"),
        ("cat\n" * (5 << 20), "has 20971520 bytes, expected a file of names"),
        (b"caf\xe9\n", "byte 3 is not UTF-8"),
        (b"cat\0dog", "zero bytes"),
        ("cat\tfelis\ndog\tcanis\n", r", line 1: 'cat\\tfelis' is more than a name"),
        ('cat\n"dog\nred fox\n', ", line 2: '\"dog' is more than a name"),
        ("0,cat\n1,dog\nred fox\n", ", line 3: 'red fox' has no index in front"),
        ("0,cat\n5,dog\n", "the indexes do not count from 0 to 1; .* as a JSON list"),
        ("0,cat,5\n1,dog, 7\n", ", line 1: '0,cat,5' has a number after its name"),
        ("cat=0\ndog=1\n", ", line 1: 'cat=0' has a number beside its name"),
        ("0 cat\n1 dog\n", ", line 1: '0 cat' has a number beside its name"),
        ("1 001.a\n2 002.b\n", ", line 1: '1 001.a' has a number beside its name"),
        ("/b/bank 1\n/a/airfield 0\n", ", line 1: '/b/bank 1' has a number beside its name"),
    ],
)
def test_a_misleading_label_file_is_refused_with_the_reason(
    tmp_path: Path, content: str | bytes, reason: str
) -> None:
    with pytest.raises(ImportRefused, match=f"labels.*{reason}"):
        read(tmp_path, content)


def test_there_must_be_a_label_for_each_output() -> None:
    check_label_count(("a", "b"), 2, "softmax")
    check_label_count(("no", "yes"), 1, "sigmoid")

    with pytest.raises(ImportRefused, match="2 names for the network's 3 outputs"):
        check_label_count(("a", "b"), 3, "softmax")
    with pytest.raises(ImportRefused, match=r"3 names for .* 2 outputs; .*'background': remove it"):
        check_label_count(("background", "a", "b"), 2, "softmax")
