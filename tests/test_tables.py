"""Tables that somebody else wrote: a named error with file and row, for each way to be wrong."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from cxr import annotations, submission
from cxr.errors import AnnotationError, DataError, SubmissionError
from cxr.tables import id_problem, read_text_table

HEADER = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n"
GOOD = "a,Aortic enlargement,0,R1,1,2,3,4\n"


def table(tmp_path: Path, text: str, name: str = "train.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + GOOD.replace(",4", ",4,5"), r"train\.csv row 1 \(image a\): expected 8 fields, got 9"),
        (
            HEADER + GOOD + GOOD.replace(",4", ",4,5"),
            r"train\.csv row 2 \(image a\): expected 8 fields, got 9",
        ),
        (HEADER + GOOD.replace(",4", ""), r"train\.csv row 1 \(image a\): expected 8 fields, got 7"),
        (
            HEADER.replace("y_max", "x_max") + GOOD,
            r"train\.csv: expected the column 'x_max' once, got it twice",
        ),
        (HEADER + GOOD.replace("a,", "../a,"), r"row 1 \(image \.\./a\): expected an image id without slash"),
        (HEADER + GOOD.replace("a,", "..,"), r"row 1 \(image \.\.\): expected an image id without slashes"),
        (HEADER + GOOD.replace("a,", '"a\nb",', 1), r"row 1 .*without control characters, got 'a\\nb'"),
        (
            HEADER + GOOD.replace(",1,2", ",1_0,2"),
            r"row 1 \(image a\): expected a number as x_min, got '1_0'",
        ),
    ],
)
def test_annotations(tmp_path: Path, text: str, message: str):
    with pytest.raises(AnnotationError, match=message):
        annotations.read_annotations(table(tmp_path, text))


def test_bad_ids_are_listed_and_left_out(tmp_path: Path):
    text = annotations.read_table(table(tmp_path, HEADER + GOOD + GOOD.replace("a,", "x/y,")))
    found = annotations.problems(text)
    assert found[["row", "kind"]].to_numpy().tolist() == [[2, "image_id"]]
    assert annotations.drop_problems(text, found).image_id.tolist() == ["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image_id,PredictionString\na,1_4 1 0 0 1 1\n",
            r"row 2 .*a number for class_id of box 1, got '1_4'",
        ),
        ("image_id,PredictionString\na,١ 1 0 0 1 1\n", r"row 2 .*a number for class_id of box 1"),
        (
            "image_id,PredictionString\na,14 1 0 0 1 1,x\n",
            r"s\.csv row 2 \(image a\): expected 2 fields, got 3",
        ),
        (
            "image_id,image_id,PredictionString\na,a,14 1 0 0 1 1\n",
            "the column 'image_id' once, got it twice",
        ),
        (
            "image_id,PredictionString\n../a,14 1 0 0 1 1\n",
            r"row 2 \(image \.\./a\): expected an image id wi",
        ),
        ('image_id,PredictionString\n"a\x1b[2J",14 1 0 0 1 1\n', r"row 2 .*without control characters"),
    ],
)
def test_submissions(tmp_path: Path, text: str, message: str):
    with pytest.raises(SubmissionError, match=message):
        submission.parse(table(tmp_path, text, "s.csv"))


def test_nothing_is_guessed(tmp_path: Path):
    with gzip.open(tmp_path / "t.csv.gz", "wt", encoding="utf-8-sig") as file:
        file.write("image_id, n\nNA,007\n\n1e5, nan \n")
    read = read_text_table(tmp_path / "t.csv.gz", ["image_id"])
    assert read.to_dict("list") == {"image_id": ["NA", "1e5"], "n": ["007", "nan"]}
    assert read.index.tolist() == [1, 3]
    (tmp_path / "b.csv").write_bytes(b"image_id\n\xff\n")
    with pytest.raises(DataError, match=r"b\.csv: expected a readable CSV table"):
        read_text_table(tmp_path / "b.csv", ["image_id"])


def test_ids():
    assert not any(map(id_problem, ("a", "ä b", "1.2.840", "...", "a\u3000b", "=1+1", "-x", "$x^2{")))
    assert all(
        map(id_problem, ("", ".", "..", "a/b", "a\\b", "a\nb", "\x00", "\x1b[2J", "a\u202eb", "\ud800"))
    )
