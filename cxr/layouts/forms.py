"""All forms by name, and which of them a folder is; another form is one more entry here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cxr.errors import DataError, ParameterError, printable
from cxr.layouts import coco, nih, ours, rsna, vindr, voc, yolo
from cxr.layouts.folder import SourceFolder
from cxr.layouts.layout import Layout, Notes


@dataclass(frozen=True)
class Form:
    """A way to lay out images and boxes.

    Attributes:
        title: What people call it.
        marks: What it is recognised by.
        recognise: Whether a folder is of this form.
        read: Reads one.
    """

    title: str
    marks: str
    recognise: Callable[[SourceFolder], bool]
    read: Callable[[SourceFolder, Notes], Layout]


FORMS = {
    "vindr": Form("VinDr-CXR of PhysioNet", "annotations_train.csv", vindr.recognise, vindr.read),
    "nih": Form("NIH ChestX-ray14", "BBox_List_2017.csv", nih.recognise, nih.read),
    "rsna": Form("RSNA pneumonia", "stage_2_train_labels.csv", rsna.recognise, rsna.read),
    "yolo": Form("YOLO", "data.yaml with names and train", yolo.recognise, yolo.read),
    "coco": Form("COCO", "JSON with images and categories", coco.recognise, coco.read),
    "voc": Form("Pascal VOC", "XML documents with the root annotation", voc.recognise, voc.read),
    "table": Form("a table like our own", "train.csv with images and boxes", ours.recognise, ours.read),
}


def choose(source: SourceFolder, name: str, notes: Notes) -> Form:
    """The form of a folder.

    Args:
        source: The folder.
        name: The form's name; "" to recognise it.
        notes: Where the choice is said.

    Raises:
        ParameterError: No form of that name.
        DataError: The folder is of no form, of several, or not of the one named.
    """
    where = printable(source.root)
    if name:
        if name not in FORMS:
            raise ParameterError(f"--format {printable(name)}: expected one of {', '.join(FORMS)}")
        if not FORMS[name].recognise(source):
            raise DataError(f"{where}: expected {FORMS[name].title}, found no {FORMS[name].marks}")
        found = [name]
    else:
        found = [key for key, form in FORMS.items() if form.recognise(source)]
    if not found:
        known = "; ".join(f"{key}: {form.marks}" for key, form in FORMS.items())
        seen = [*ours.why_not(source), *(line for line in notes.lines() if line.startswith("left out"))]
        said = "".join(f"{line}; " for line in seen)
        raise DataError(f"{where}: no form that is known; {said}looked for {known}")
    if len(found) > 1:
        raise DataError(f"{where}: may be {' or '.join(found)}; say which with --format")
    notes.take(f"{source.root} for {FORMS[found[0]].title}")
    return FORMS[found[0]]
