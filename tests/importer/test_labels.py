"""Label files: the three forms, and nothing beside a name is ever served as a label."""

from pathlib import Path

import pytest

from importer.errors import ImportRefused
from importer.labels import LabelFile, check_label_count, read_labels


def read(tmp_path: Path, content: str | bytes) -> LabelFile:
    data = content.encode() if isinstance(content, str) else content
    (tmp_path / "labels").write_bytes(data)
    return read_labels(tmp_path / "labels")


@pytest.mark.parametrize(
    "content",
    [
        "cat\ndog\nred fox\n",
        "\ufeffcat\r\ndog\r\nred fox\r\n\r\n",
        " cat \rdog\t\rred fox",
        '{"2": "red fox", "0": "cat", "1": "dog"}',
        '{"0": ["n02123045", "cat"], "1": ["n02084071", "dog"], "2": ["n02119022", "red fox"]}',
    ],
)
def test_every_form_gives_the_names_in_order(tmp_path: Path, content: str) -> None:
    assert read(tmp_path, content) == LabelFile(labels=("cat", "dog", "red fox"))


def test_ids_are_sorted_as_numbers_and_names_stay_as_they_are(tmp_path: Path) -> None:
    content = "{" + ", ".join(f'"{index}": "c{index}"' for index in range(11)) + "}"
    assert read(tmp_path, content).labels[2:4] == ("c2", "c3")

    # U+2028 and U+0085 end a line for str.splitlines, but not in a text file; equal names may be.
    names = "crane\nchat noir é\n猫\na\u2028b\x85c\ncrane"
    assert read(tmp_path, names).labels == ("crane", "chat noir é", "猫", "a\u2028b\x85c", "crane")

    # What looks like an index or a header is a name in a JSON list.
    assert read(tmp_path, '["1, 2", "label"]') == LabelFile(labels=("1, 2", "label"))


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ("0,cat\n1,dog\n2,red fox\n", "first column is taken for the index of the class, from 0"),
        ("0|cat\n1|dog\n2|red fox\n", "'0|cat' is 'cat', class 0"),
        ("1\tcat\n2\tdog\n3\tred fox\n", "from 1, and left out: '1\\tcat' is 'cat', class 0"),
        ("2;red fox\n0;cat\n1;dog\n", "'2;red fox' is 'red fox', class 2"),
        ("n01440764 cat\nn01443537 dog\nn01484850 red fox\n", "WordNet ids in front of the names"),
        ("cat=0\ndog=1\nred fox=2\n", "last column is taken for the index"),
        ("id,name\n0,cat\n1,dog\n2,red fox\n", "line 1, 'id,name', is taken for a header"),
        ("'cat',\n'dog',\n'red fox'\n", "quotes around 3 names are taken off"),
        ('0,"cat"\n1,"dog"\n2,red fox\n', "quotes around 2 names are taken off"),
    ],
)
def test_what_stands_beside_the_names_is_taken_off_with_a_note(
    tmp_path: Path, content: str, note: str
) -> None:
    found = read(tmp_path, content)

    assert found.labels == ("cat", "dog", "red fox")
    assert note in "; ".join(found.notes)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "holds no label"),
        ("cat\n\ndog\n", "name of class 1 is empty"),
        ('["cat", null]', "class 1 is null, expected a name"),
        ('{"0": "cat", "2": "dog"}', "class 1 has none .*go up to 2.* ids 0 to 1"),
        ('{"cat": 0, "dog": 1}', "key 'cat' is not a class id.*not name → id"),
        ('{"0": "cat", "00": "dog", "1": "fox"}', "class 0 stands twice"),
        ('["cat", "dog"', "starts like JSON, but"),
        ("cat\n" * (5 << 20), "has 20971520 bytes, expected a file of names"),
        (b"caf\xe9\n", "byte 3 is not UTF-8"),
        (b"cat\0dog", "zero bytes"),
        ("cat\tfelis\ndog\tcanis\n", r", line 1: 'cat\\tfelis' is more than a name"),
        ("0,cat\n1,dog\nred fox\n", ", line 3: 'red fox' has no index in front"),
        ("0,cat\n5,dog\n", "the indexes do not count from 0 to 1; .* as a JSON list"),
        ('{"1": 0, "10": 1, "2": 2}', "is name → id, as ImageFolder's class_to_idx"),
        ("Grade: 0\nGrade: 1\nGrade: 2\n", "of 3 names 1 would be left; .* as a JSON list"),
        ("0 cat\n1 dog\n", ", line 1: '0 cat' begins with its number"),
        ('cat\n"dog\nred fox\n', ", line 2: '\"dog' is more than a name"),
    ],
)
def test_a_misleading_label_file_is_refused_with_the_reason(
    tmp_path: Path, content: str | bytes, reason: str
) -> None:
    with pytest.raises(ImportRefused, match=f"labels.*{reason}"):
        read(tmp_path, content)


def test_the_count_must_equal_the_width_of_the_logits() -> None:
    check_label_count(("a", "b"), 2, "softmax")
    check_label_count(("no", "yes"), 1, "sigmoid")

    with pytest.raises(ImportRefused, match="2 names for the network's 3 outputs"):
        check_label_count(("a", "b"), 3, "softmax")
    with pytest.raises(ImportRefused, match=r"3 names for .* 2 outputs; .*'background': remove it"):
        check_label_count(("background", "a", "b"), 2, "softmax")
