"""Files with the names of classes: each form in common use is read and told, or refused with the form to give."""

import json
import pickle
from pathlib import Path

import pytest
from resonnx_export.class_names.files import read_class_names
from resonnx_export.errors import BadInput

NAMES = ("cat", "dog", "bird")


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.txt", "cat\ndog\nbird\n"),
        ("crlf.txt", "cat\r\ndog\r\nbird\r\n"),
        ("cr_only.txt", "cat\rdog\rbird\r"),
        ("bom.txt", b"\xef\xbb\xbfcat\ndog\nbird\n"),
        ("utf16.txt", "cat\ndog\nbird\n".encode("utf-16")),
        ("trailing_blank.txt", "cat\ndog\nbird\n\n\n"),
    ],
)
def test_one_name_a_line(tmp_path: Path, name: str, content: str | bytes) -> None:
    read = read_class_names(written(tmp_path, name, content))
    assert (read.names, read.notes) == (NAMES, ())


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("list.json", json.dumps(NAMES), "JSON list"),
        ("object_index.json", '{"0": "cat", "2": "bird", "1": "dog"}', '{"number": "name"}'),
        ("class_to_idx.json", '{"cat": 0, "dog": 1, "bird": 2}', '{"name": number}'),
        (
            "imagenet_class_index.json",
            '{"0": ["n1", "cat"], "1": ["n2", "dog"], "2": ["n3", "bird"]}',
            '["id", "name"]',
        ),
        ("config.json", '{"id2label": {"0": "cat", "1": "dog", "2": "bird"}, "label2id": {"cat": 0}}', "id2label"),
        ("timm.json", '{"architecture": "resnet18", "label_names": ["cat", "dog", "bird"]}', "label_names"),
        (
            "timm_wordnet.json",
            '{"label_names": ["n1", "n2", "n3"], "label_descriptions": {"n1": "cat", "n2": "dog", "n3": "bird"}}',
            "label_descriptions",
        ),
        ("categories.json", '{"classes": ["cat", "dog", "bird"], "images": []}', "'classes'"),
        ("coco.json", '[{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}, {"id": 2, "name": "bird"}]', "'id'"),
        ("imagenet1000_clsidx_to_labels.txt", "{0: 'cat',\n 1: 'dog',\n 2: 'bird'}\n", "Python object"),
        ("synset_words.txt", "n01440764 cat\nn01443537 dog\nn01484850 bird\n", "WordNet id"),
        ("categories_places365.txt", "/c/cat 0\n/d/dog 1\n/b/bird 2\n", "a name and a number"),
        ("index_name.txt", "0 cat\n1 dog\n2 bird\n", "a number and a name"),
        ("index_colon.txt", "0: cat\n1: dog\n2: bird\n", "a number and a name"),
        ("unordered.txt", "2\tbird\n0\tcat\n1\tdog\n", "numbers and names"),
        ("labels.csv", "id,name\n0,cat\n1,dog\n2,bird\n", "'id' and 'name'"),
        ("reversed.csv", "Label;Class ID\nbird;2\ncat;0\ndog;1\n", "'Class ID' and 'Label'"),
        ("names_alone.csv", "label\ncat\ndog\nbird\n", "one column"),
        ("one_line.csv", "cat,dog,bird\n", "one line"),
        ("quoted.txt", '"cat",\n\'dog\',\n"bird"\n', "names in quotes"),
        ("idx_to_class.json", '{"idx_to_class": {"0": "cat", "1": "dog", "2": "bird"}}', "'idx_to_class'"),
        ("class_to_idx.pkl", pickle.dumps({"cat": 0, "dog": 1, "bird": 2}), "pickled object"),
        ("classes.pkl", pickle.dumps(list(NAMES)), "pickled list"),
    ],
)
def test_other_forms_are_read_and_told(tmp_path: Path, name: str, content: str | bytes, form: str) -> None:
    read = read_class_names(written(tmp_path, name, content))
    assert read.names == NAMES
    assert form in read.notes[0]


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("n01440764 tench, Tinca tinca\nn01443537 goldfish\n", ("tench, Tinca tinca", "goldfish")),
        ("[unknown]\ncat\n", ("[unknown]", "cat")),
        ("猫\ncafé\n", ("猫", "café")),
        # Numbers that are part of the names.
        ("1 euro\n2 euros\n5 euros\n", ("1 euro", "2 euros", "5 euros")),
        ("class 0\nclass 1\n", ("class 0", "class 1")),
        ("boeing 737\nairbus 320\n", ("boeing 737", "airbus 320")),
        ("#1\n#cat\n", ("#1", "#cat")),
        ("a=b\nc\n", ("a=b", "c")),
        ("cat = 0\ndog = 1\n", ("cat", "dog")),
        ("0 = cat\n1 = dog\n", ("cat", "dog")),
        # MNIST's, in folders of digits.
        ('{"0": 0, "1": 1}', ("0", "1")),
        ("tench, Tinca tinca\ngoldfish\n", ("tench, Tinca tinca", "goldfish")),
    ],
)
def test_names_stay_whole(tmp_path: Path, content: str, names: tuple[str, ...]) -> None:
    assert read_class_names(written(tmp_path, "labels.txt", content)).names == names


def test_shared_names_are_told(tmp_path: Path) -> None:
    read = read_class_names(written(tmp_path, "labels.txt", "crane\nmaillot\ncrane\n"))
    assert read.names == ("crane", "maillot", "crane")
    assert read.notes == ("labels: classes share a name: 'crane' (2 classes)",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", "", "is empty"),
        ("classes.py", "import os\nCLASSES = [\n  'cat',\n]\n", "is a program"),
        ("classes.toml", 'classes = ["cat", "dog"]\n', "is a program"),
        ("items.txt", "- cat\n- dog\n", "is YAML"),
        ("leading_blank.txt", "\ncat\ndog\n", "line 1 is blank"),
        ("middle_blank.txt", "cat\n\ndog\n", "line 2 is blank"),
        ("latin1.txt", "caf\xe9\ndog\n".encode("latin-1"), "iconv -f WINDOWS-1252"),
        ("utf16_unmarked.txt", "cat\ndog\n".encode("utf-16-le"), "byte 1 is zero"),
        ("picture.png", b"\x89PNG\r\n\x1a\n\0\0", "not UTF-8"),
        ("marked.txt", b"\xff\xfe\x00", "mark of UTF-16-LE"),
        ("idx_from_1.json", '{"1": "cat", "2": "dog"}', "numbers are 1 to 2; they must be 0 to 1"),
        ("gap.json", '{"0": "a", "2": "b"}', "0 to 1, each once, and 1 is missing"),
        ("twice.json", '{"a": 0, "b": 0}', "0 is there 2 times"),
        ("same_key.json", '{"0": "a", "0": "b"}', "the key '0' twice"),
        ("from_1.txt", "1 cat\n2 dog\n3 bird\n", "numbers are 1 to 3"),
        ("gap.txt", "0: cat\n2: dog\n", "1 is missing"),
        ("list_numbers.json", "[0, 1, 2]", "entry 0 is the number 0"),
        ("empty_name.json", '["cat", " "]', "name 1 is empty"),
        ("words.json", '{"a": "b"}', "unknown form, with 'a'; give one name a line"),
        ("training.json", '{"lr": 0.1, "epochs": 3}', "unknown form"),
        ("cut.json", '["a", ', "begins like JSON"),
        ("jsonl.txt", '{"0": "cat"}\n{"1": "dog"}\n', "begins like JSON and is not"),
        ("nested.json", "[" * 100_000, "nested"),
        ("labels.yaml", "names:\n  0: cat\n  1: dog\n", "is YAML; give"),
        ("labels.txt", "names:\n- cat\n- dog\n", "is YAML; give"),
        ("map.pbtxt", "item {\n  id: 1\n  name: 'cat'\n}\n", "object detection"),
        ("page.html", "<!doctype html>\n<p>404\n", "HTML"),
        ("map_clsloc.txt", "n02119789 1 kit_fox\nn02100735 2 English_setter\n", "development kit"),
        ("no_header.csv", "0.3,cat,x\n0.5,dog,y\n", "without a header"),
        ("gap.csv", "id,name\n0,cat\n2,dog\n", "must be 0 to 1"),
        ("no_names.csv", "id,wnid\n0,n01440764\n1,n01443537\n", "none of them is 'name'"),
        ("vocab.pkl", pickle.dumps(Path("x")), "is a pickled .*Path"),
        ("commented.txt", "# names of my classes\ncat\ndog\n", "a comment in line 1"),
        ("comment_between.txt", "cat\n#\ndog\n", "a comment in line 2"),
        ("slashes.txt", "cat\n// the rest\ndog\n", "a comment in line 2"),
        ("coco.data", "classes= 2\ntrain  = t.txt\n\nnames = data/my.names\nbackup = b/\n", "'data/my.names'"),
        ("coco.txt", "# COCO\nclasses=2\nnames=my.names\n", "darknet's .data: .* 'my.names'"),
        ("net.cfg", "[net]\nbatch=1\nwidth=416\n", r"a configuration file \(batch = ...\)"),
    ],
)
def test_other_files_are_refused_with_the_form(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(BadInput, match=message) as refused:
        read_class_names(path)
    assert str(refused.value).startswith(str(path))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        read_class_names(tmp_path / "none")


def test_a_long_line_is_a_name(tmp_path: Path) -> None:
    for start in ("b", "b=", "#"):
        (tmp_path / "labels.txt").write_text(f"a\n{start}{' ' * 200_000}c")
        if start == "#":
            with pytest.raises(BadInput, match="comment in line 2"):
                read_class_names(tmp_path / "labels.txt")
        else:
            assert len(read_class_names(tmp_path / "labels.txt").names) == 2


def test_half_a_character_is_no_name(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text('["a", "\\ud800"]')
    with pytest.raises(BadInput, match=r"name 1 is .* no valid text"):
        read_class_names(tmp_path / "labels.json")
