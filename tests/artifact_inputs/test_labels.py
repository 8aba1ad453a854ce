"""Label files: every form in use, and no silent shift."""

from pathlib import Path

import pytest

from image_classifier.artifact.format import ArtifactError
from importer.labels import check_label_count, read_labels
from tests.shared_data import SHARED, needs_shared_data


def labels_in(tmp_path: Path, content: str | bytes) -> tuple[str, ...]:
    data = content.encode() if isinstance(content, str) else content
    (tmp_path / "labels").write_bytes(data)
    return read_labels(tmp_path / "labels")


@pytest.mark.parametrize(
    "content",
    [
        "cat\ndog\nred fox\n",
        "cat\ndog\nred fox",
        "cat\r\ndog\r\nred fox\r\n",
        "cat\rdog\rred fox\r",
        "\ufeffcat\ndog\nred fox\n",
        "cat\ndog\nred fox\n\n\n",
        " cat \ndog\t\nred fox\n",
        '["cat", "dog", "red fox"]',
        '\ufeff["cat", "dog", "red fox"]\n',
        '{"0": "cat", "1": "dog", "2": "red fox"}',
        '{"2": "red fox", "0": "cat", "1": "dog"}',
        '{"0": ["n02123045", "cat"], "1": ["n02084071", "dog"], "2": ["n02119022", "red fox"]}',
        '[["n02123045", "cat"], ["n02084071", "dog"], ["n02119022", "red fox"]]',
    ],
)
def test_every_form_gives_the_names_in_order(tmp_path: Path, content: str) -> None:
    assert labels_in(tmp_path, content) == ("cat", "dog", "red fox")


def test_eleven_ids_are_sorted_as_numbers(tmp_path: Path) -> None:
    content = "{" + ", ".join(f'"{index}": "c{index}"' for index in range(11)) + "}"

    assert labels_in(tmp_path, content)[2] == "c2"
    assert labels_in(tmp_path, content)[10] == "c10"


def test_two_classes_may_have_one_name(tmp_path: Path) -> None:
    assert labels_in(tmp_path, "crane\nowl\ncrane\n") == ("crane", "owl", "crane")


def test_names_of_other_alphabets_stay_as_they_are(tmp_path: Path) -> None:
    # U+2028 and U+0085 end a line for str.splitlines, but not in a text file.
    assert labels_in(tmp_path, "chat noir é\n猫\na\u2028b\x85c") == (
        "chat noir é",
        "猫",
        "a\u2028b\x85c",
    )


@needs_shared_data
def test_the_imagenet_categories_are_read() -> None:
    labels = read_labels(SHARED / "weights" / "imagenet_categories.txt")

    assert len(labels) == 1000
    assert (labels[0], labels[1], labels[999]) == ("tench", "goldfish", "toilet tissue")
    assert (labels[134], labels[517]) == ("crane bird", "crane")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "holds no label"),
        ("\n\n", "holds no label"),
        ("[]", "holds no label"),
        ("{}", "holds no label"),
        ("cat\n\ndog\n", "name of class 1 is empty"),
        ("\ncat\ndog\n", "name of class 0 is empty"),
        ('["cat", ""]', "name of class 1 is empty"),
        ('["cat", 3]', "class 1 is 3, expected a name"),
        ('["cat", null]', "class 1 is null, expected a name"),
        ('{"0": "cat", "2": "dog"}', "class 1 has none .*go up to 2.* ids 0 to 1"),
        ('{"1": "cat", "2": "dog"}', "class 0 has none"),
        ('{"0": "cat", "0": "dog"}', "'0' stands there twice"),
        ('{"1": "cat", "01": "dog"}', "two spellings"),
        ('{"cat": 0, "dog": 1}', "key 'cat' is not a class id.*not name → id"),
        ('{"-1": "cat"}', "key '-1' is not a class id"),
        ('{"0": {"name": "cat"}}', "class 0 is .*expected a name"),
        ('{"0": ["cat", "dog"]}', "class 0 is .*expected a name"),
        ('["cat", "dog"', "starts like JSON, but"),
        (b"caf\xe9\n", "byte 3 is not UTF-8"),
        ("cat\ndog".encode("utf-16"), "byte 0 is not UTF-8"),
        (b"cat\0dog", "zero bytes"),
    ],
)
def test_a_damaged_label_file_is_refused_with_the_reason(
    tmp_path: Path, content: str | bytes, reason: str
) -> None:
    with pytest.raises(ArtifactError, match=f"labels: .*{reason}"):
        labels_in(tmp_path, content)


def test_a_missing_file_and_a_huge_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No such file"):
        read_labels(tmp_path / "absent")

    with (tmp_path / "weights.pt").open("wb") as file:
        file.truncate(17 << 20)
    with pytest.raises(ArtifactError, match="larger than 16777216 bytes"):
        read_labels(tmp_path / "weights.pt")


def test_the_count_must_equal_the_width_of_the_logits() -> None:
    check_label_count(("a", "b"), 2)

    with pytest.raises(ArtifactError, match="2 names for 3 logits"):
        check_label_count(("a", "b"), 3)
    with pytest.raises(ArtifactError, match=r"3 names for 2 logits; .*'background', which this"):
        check_label_count(("background", "a", "b"), 2)
