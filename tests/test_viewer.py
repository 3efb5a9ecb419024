"""The viewer's page: what goes in, what is said of each box, what a browser makes of it."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
import webbrowser
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from cxr import cli, metrics, predictions, schema, store, viewer
from cxr.errors import DataError
from cxr.schema import ANNOTATION_COLUMNS, DETECTION_COLUMNS, ClassTable
from cxr.viewer.outcomes import HIT_SCORE, how_wrong, judge
from cxr.viewer.pictures import EIGHT_BIT, Reduction, encode, fit

CLASSES = ClassTable(("Mass", "</script><b>x", "No finding"))
EVIL = "a<img src=x>'\"&"


class Held(dict):
    """Images in memory, each a half of its original."""

    def original_size(self, image_id: str) -> tuple[int, int]:
        return 2 * self[image_id].shape[0], 2 * self[image_id].shape[1]


class Scripts(HTMLParser):
    """Collects the text of every script with an id, and every tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._id = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._id = str(dict(attrs).get("id", "")) if tag == "script" else ""

    def handle_data(self, text: str) -> None:
        if self._id:
            self.texts[self._id] = self.texts.get(self._id, "") + text


def images(count: int = 4) -> Held:
    rng = np.random.default_rng(0)
    return Held({name: rng.integers(0, 256, (40, 30)).astype(np.uint8) for name in "abcdefgh"[:count]})


def detections(*rows: tuple[Any, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=DETECTION_COLUMNS)


def consensus(*rows: tuple[Any, ...]) -> pd.DataFrame:
    columns = [schema.IMAGE_ID, schema.CLASS_ID, *schema.BOX_COLUMNS, "n_readers", "agreement"]
    return pd.DataFrame(rows, columns=columns)


NOTHING = (np.nan,) * 4
TRUTH = consensus(
    ("a", 0, 0, 0, 20, 20, 2, 0.5),
    ("a", 1, 40, 40, 60, 80, 4, 1.0),
    ("b", 2, *NOTHING, 3, 1.0),
    ("c", 0, 10, 10, 30, 30, 1, 0.25),
)
FOUND = detections(
    ("a", 0, 0.9, 0, 0, 20, 20),  # hit
    ("a", 0, 0.4, 0, 0, 20, 18),  # duplicate
    ("b", 1, 0.7, 0, 0, 10, 10),  # background
    ("c", 1, 0.2, 10, 10, 30, 30),  # class
    ("d", 0, 0.3, 0, 0, 9, 9),  # no truth known
)


def page_of(**changes: Any) -> viewer.Page:
    given = {"truth": TRUTH, "detections": FOUND, "classes": CLASSES, "score_threshold": 0.35} | changes
    source = given.pop("source", images())
    return viewer.notebook_page(source, list(source), **given)


def data_of(page: viewer.Page) -> dict[str, Any]:
    return json.loads(Scripts(page.html).texts["data"])


# -- outcomes ------------------------------------------------------------------------------------------


def test_every_box_is_judged_by_hand():
    found, true = judge(FOUND, TRUTH, image_ids=["a", "b", "c"], classes=CLASSES, iou_threshold=0.4)
    assert found["kind"].tolist() == ["hit", "duplicate", "background", "class"]
    assert true[HIT_SCORE].fillna(-1).tolist() == [0.9, -1, -1]
    # At 0.35: a misses one and has a duplicate of 0.4; b alarms with 0.7; c misses one, its 0.2 is not shown.
    assert how_wrong(found, true, 0.35).round(6).to_dict() == {"a": 1.4, "b": 0.7, "c": 1.0}
    assert how_wrong(found, true, 0.95).to_dict() == {"a": 2.0, "c": 1.0}


def test_one_judgement_holds_for_every_threshold():
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 40, (240, 2))
    boxes = np.hstack([corner, corner + rng.uniform(8, 30, (240, 2))])
    names, labels = rng.choice(list("abcd"), 240), rng.integers(0, 2, 240)
    table = pd.DataFrame(boxes, columns=schema.BOX_COLUMNS)
    table.insert(0, schema.IMAGE_ID, names)
    table.insert(1, schema.CLASS_ID, labels)
    truth, found = table[:40].reset_index(drop=True), table[40:].assign(score=rng.random(200))
    kinds, true = judge(found, truth, image_ids=list("abcd"), classes=CLASSES, iou_threshold=0.4)
    for threshold in (0.0, 0.3, 0.6, 0.95):
        alone = metrics.error_breakdown(
            found[found.score >= threshold], truth, image_ids=list("abcd"), class_ids=[0, 1]
        )
        assert alone.detections["kind"].tolist() == kinds.loc[kinds.score >= threshold, "kind"].tolist()
        assert ((true[HIT_SCORE] >= threshold) == (alone.truth["kind"] == "hit")).all()


# -- pictures ------------------------------------------------------------------------------------------


def decoded(webp: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(webp), np.uint8), cv2.IMREAD_COLOR)


def test_sixteen_bits_come_back_exactly():
    pixels = np.random.default_rng(0).integers(0, 65536, (20, 30)).astype(np.uint16)
    (picture,), failed, _ = fit(["a"], Held(a=pixels), budget_bytes=10**6)
    back = decoded(picture.webp).astype(int)
    assert not failed
    np.testing.assert_array_equal(back[..., 2] * 256 + back[..., 1], pixels)


def test_pictures_fit_the_budget_and_no_worse_than_need_be():
    rng = np.random.default_rng(0)
    source = Held({str(i): rng.integers(0, 256, (300, 250)).astype(np.uint8) for i in range(6)})
    roomy, _, best = fit(list(source), source, budget_bytes=10**8)
    tight, _, worse = fit(list(source), source, budget_bytes=80_000)
    assert best == EIGHT_BIT[0] and roomy[0].size == (300, 250)
    assert sum(len(picture.webp) for picture in tight) <= 80_000
    assert max(tight[0].size) == worse.longest_side < 300


def test_a_small_image_is_not_enlarged():
    picture = encode("a", np.full((10, 20), 77, np.uint8), Reduction(512, 101))
    assert picture.size == (10, 20)
    assert (decoded(picture.webp) == 77).all()


# -- the page ------------------------------------------------------------------------------------------


def test_the_page_holds_what_is_known():
    data = data_of(page_of())
    by_id = {image["id"]: image for image in data["images"]}
    assert [image["id"] for image in data["images"]] == ["a", "c", "b", "d"], "the most wrong first"
    assert by_id["a"]["size"] == [60, 80], "width and height of the original"
    assert by_id["a"]["truth"][0] == [0, 0, 20, 20, 0, 2, 0.5, 0.9]
    assert by_id["a"]["truth"][1][-1] is None
    assert by_id["a"]["found"][0] == [0, 0, 20, 20, 0, 0.9, 0]
    assert by_id["b"]["judged"] and "truth" not in by_id["b"]
    assert not by_id["d"]["judged"] and by_id["d"]["found"][0][-1] is None
    assert data["score"] == 0.35 and data["bits"] == 8
    assert "Pixels are reduced" in data["facts"][0]


def test_nothing_in_the_data_becomes_markup():
    readers = pd.DataFrame(
        [[EVIL, "Mass", 0, "<R1>", 0, 0, 9, 9], ["a", "Mass", 0, "</script>", 0, 0, 9, 9]],
        columns=ANNOTATION_COLUMNS,
    )
    source = images() | {EVIL: np.zeros((8, 8), np.uint8)}
    page = page_of(source=Held(source), readers=readers, title=EVIL)
    parsed = Scripts(page.html)
    assert not [tag for tag, _ in parsed.tags if tag == "img"]
    assert sum(tag == "b" for tag, _ in parsed.tags) == 6, "the template's own"
    assert page.html.count("</script>") == 2 + len(source)
    data = json.loads(parsed.texts["data"])
    assert data["classes"][1][0] == CLASSES.names[1]
    assert data["readers"] == ["</script>", "<R1>"]
    assert EVIL in {image["id"] for image in data["images"]}


def test_the_page_needs_nothing_from_elsewhere():
    page = page_of()
    parsed = Scripts(page.html)
    assert not [a for _, a in parsed.tags if a.get("src") or a.get("href")]
    assert not re.search(r"https?://", page.html)
    policy = next(a["content"] for tag, a in parsed.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'")
    for number, image in enumerate(json.loads(parsed.texts["data"])["images"]):
        shape = decoded(parsed.texts[f"px{number}"]).shape
        assert shape[:2] == (image["size"][1] // 2, image["size"][0] // 2)


def test_in_a_notebook_it_is_a_frame():
    page = page_of(images=2)
    shown = page._repr_html_()
    inner = re.fullmatch(r'<div><iframe srcdoc="([^"]*)" style="[^"]*" title="images"></iframe></div>', shown)
    assert inner and html.unescape(inner[1]) == page.html
    assert page.images == 2 and "2 of 4 images are in this page." in data_of(page)["facts"]


@pytest.mark.parametrize("kept", ["truth", "detections", "readers", None])
def test_any_one_table_is_enough(kept: str | None):
    readers = TRUTH.rename(columns={"n_readers": "rad_id"}).astype({"rad_id": str})
    tables = {"truth": TRUTH, "detections": FOUND, "readers": readers}
    given = {name: table if name == kept else None for name, table in tables.items()}
    data = data_of(page_of(**given))
    assert data["has"] == {
        "readers": kept == "readers",
        "truth": kept == "truth",
        "found": kept == "detections",
        "judged": False,
    }
    assert len(data["images"]) == 4


def test_empty_tables_are_no_error():
    page = page_of(truth=TRUTH[:0], detections=FOUND[:0])
    assert page.images == 4
    assert page_of(truth=TRUTH[2:3], detections=FOUND[:0]).images == 4, "one normal image"


def test_500_images_stay_under_60_mb():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64)).astype(np.uint8)
    source = Held({str(i): noise for i in range(500)})
    boxes = np.tile([[10.0, 10.0, 50.0, 50.0]], (500 * 60, 1))
    found = pd.DataFrame(boxes, columns=schema.BOX_COLUMNS).assign(class_id=0, score=rng.random(500 * 60))
    found.insert(0, schema.IMAGE_ID, np.repeat(list(source), 60))
    material = viewer.Material("big", CLASSES, source, {"images": list(source)}, detections=found)
    # The pictures' share is held by the test above, so a small one will do here.
    page = viewer.make_page(material, images=500, budget_bytes=2_500_000)
    assert page.images == 500
    assert len(page.html) - 2_500_000 < 60_000_000 - 52_000_000


# -- where it comes from -------------------------------------------------------------------------------


def make_run(root: Path) -> Path:
    """A run's folder with what the viewer reads, of four images."""
    source = images()
    shard = [
        store.ShardImage(
            i,
            "test" if i == "d" else "train",
            source[i],
            source.original_size(i),
            dict.fromkeys(schema.HEADER_COLUMNS, ""),
            (i, 1, 2),
        )
        for i in source
    ]
    folder = root / schema.IMAGES_DIR
    folder.mkdir(parents=True)
    store.write_index(
        folder, [("shard-00000.h5", store.write_shard(folder / "shard-00000.h5", shard, compression="none"))]
    )
    truth = TRUTH.assign(class_id=TRUTH.class_id.replace(2, 14))
    truth.insert(1, "class_name", truth.class_id.map(schema.VINBIGDATA.name))
    readers = truth.assign(rad_id="R1")[ANNOTATION_COLUMNS]
    tables = {
        schema.TRAIN_FULL_CSV: readers,
        schema.CONSENSUS_CSV: truth,
        schema.FOLDS_CSV: pd.DataFrame({"image_id": ["a", "b", "c"], "fold": [0, 0, 1]}),
        schema.VAL_PREDICTIONS_CSV: FOUND[:2].assign(fold=0),
        schema.SUBMISSION_CSV: pd.DataFrame(
            {"image_id": ["d"], "PredictionString": ["14 0.2 0 0 1 1 0 0.5 1 1 9 9"]}
        ),
    }
    for artefact, table in tables.items():
        (root / artefact).parent.mkdir(exist_ok=True)
        table.to_csv(root / artefact, index=False)
    evaluation = {"display_threshold": 0.25, "iou_threshold": 0.5}
    (root / schema.EVALUATION_JSON).write_text(json.dumps(evaluation))
    return root


def test_a_run_gives_validation_and_test_images(tmp_path: Path):
    material = viewer.gather(make_run(tmp_path / "run"))
    assert material.parts == {"validation": ["a", "b"], "test": ["d"]}, "only the fold that was predicted"
    assert (material.score_threshold, material.iou_threshold) == (0.25, 0.5)
    page = viewer.make_page(material, images=10)
    data = data_of(page)
    assert [(i["id"], i["part"], i["judged"]) for i in data["images"]] == [
        ("a", "validation", True),
        ("b", "validation", True),
        ("d", "test", False),
    ]
    assert len(data["images"][2]["found"]) == 1, "the normal line is no box"
    page.write(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == page.html


def test_an_unfinished_run_gives_its_training_images(tmp_path: Path):
    root = make_run(tmp_path / "run")
    for notebook in ("04_split", "07_evaluation", "08_submission"):
        shutil.rmtree(root / notebook)
    material = viewer.gather(root)
    assert material.parts == {"training": ["a", "b", "c"]}
    assert material.truth is None and material.detections is None and len(material.readers) == 4


def test_predictions_on_files(tmp_path: Path, phantom_dir: Path):
    files = sorted((phantom_dir / "test").iterdir())[:2]
    named = {path.stem: path for path in files} | {"gone": tmp_path / "gone.dcm"}
    found = detections((files[0].stem, 3, 0.8, 10, 10, 90, 90))
    failures = pd.DataFrame(columns=["file", "reason", "message"])
    predictions.write_predictions(found, failures, named, tmp_path / "out", classes=schema.VINBIGDATA)
    page = viewer.make_page(viewer.gather(tmp_path / "out"), images=5)
    data = data_of(page)
    assert {image["id"] for image in data["images"]} == {path.stem for path in files}
    assert list(page.left_out) == ["gone"] and "1 images cannot be read, gone first" in data["facts"][-1]
    assert viewer.gather(tmp_path / "out" / "predictions.json").parts == viewer.gather(tmp_path / "out").parts


def test_a_submission_with_its_data_folder(tmp_path: Path, phantom_dir: Path):
    image_id = min(path.stem for path in (phantom_dir / "test").iterdir())
    path = tmp_path / "submission.csv"
    path.write_text(f"image_id,PredictionString\n{image_id},14 0.3 0 0 1 1 0 0.6 10 10 80 80\n")
    material = viewer.gather(path, data_dir=phantom_dir)
    assert material.parts == {"test": [image_id]}
    (image,) = data_of(viewer.make_page(material, images=3))["images"]
    assert image["judged"] and len(image["found"]) == 1
    detections((image_id, 0, 0.6, 10, 10, 80, 80)).to_csv(tmp_path / "table.csv", index=False)
    assert viewer.gather(tmp_path / "table.csv", data_dir=phantom_dir).parts == material.parts


def test_bad_input_is_named(tmp_path: Path, phantom_dir: Path):
    with pytest.raises(DataError, match="expected a run's folder, a folder that cxr predict wrote, or a CSV"):
        viewer.gather(tmp_path)
    with pytest.raises(DataError, match="found nothing"):
        viewer.gather(tmp_path / "missing")
    table = tmp_path / "found.csv"
    detections(("zz", 0, 0.5, 0, 0, 9, 9)).to_csv(table, index=False)
    with pytest.raises(DataError, match="give their data folder with --data"):
        viewer.gather(table)
    with pytest.raises(DataError, match=r"none of its 1 images is in .*zz first"):
        viewer.gather(table, data_dir=phantom_dir)
    (tmp_path / "predictions.json").write_text('{"classes": ["A", "B"], "images": [{"image_id": "a"}]}')
    with pytest.raises(DataError, match="expected what cxr predict writes; KeyError: 'file'"):
        viewer.gather(tmp_path)
    gone = {"image_id": "a", "file": "nowhere.dcm", "boxes": []}
    (tmp_path / "predictions.json").write_text(json.dumps({"classes": ["A", "B"], "images": [gone]}))
    with pytest.raises(DataError, match=r"none of the 1 image files is there, nowhere\.dcm first"):
        viewer.gather(tmp_path)


def test_the_command_writes_beside_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    root = make_run(tmp_path / "run")
    cli.app(["view", str(root), "--images", "2"], standalone_mode=False)
    assert opened == [(root / "view.html").as_uri()]
    assert f"2 images in {root / 'view.html'}" in capsys.readouterr().out
    cli.app(["view", str(root), "--out", str(tmp_path / "a.html"), "--no-open"], standalone_mode=False)
    assert len(opened) == 1 and "3 images" in capsys.readouterr().out
    with pytest.raises(DataError, match="expected a file for the page, got a folder"):
        cli.app(["view", str(root), "--out", str(tmp_path), "--no-open"], standalone_mode=False)


# -- in a browser --------------------------------------------------------------------------------------

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

DRIVER = """<script>
const pause = () => new Promise((done) => setTimeout(done, 300));
const read = () => ({
  place: document.getElementById("place").textContent, name: document.getElementById("name").textContent,
  boxes: [...document.querySelectorAll("#boxes li")].map((item) => item.textContent),
  shown: document.getElementById("canvas").dataset.shown, hash: location.hash,
  light: (() => { const c = document.getElementById("canvas");
    const data = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
    let sum = 0; for (let p = 0; p < data.length; p += 4) sum += data[p]; return sum; })(),
  wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
});
const key = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const set = (id, value, ...events) => { const node = document.getElementById(id); node.value = value;
  for (const name of events) node.dispatchEvent(new Event(name)); };
const touch = (type, pointerId, x, y) => { const c = document.getElementById("canvas");
  c.setPointerCapture = () => {}; const box = c.getBoundingClientRect();
  c.dispatchEvent(new PointerEvent(type, { pointerId, pointerType: "touch", clientX: box.left + x,
    clientY: box.top + y, bubbles: true })); };
(async () => { const seen = []; await pause();
  for (const act of [() => {}, STEPS]) { await act(); await pause(); seen.push(read()); }
  const out = document.createElement("pre"); out.id = "seen"; out.textContent = JSON.stringify(seen);
  document.body.append(out); })();
</script>"""


def browse(page: Path, steps: str, tmp_path: Path, *, hash: str = "", size: str = "1280,800") -> list[dict]:
    """What the page shows after each step, done by a script that acts as a person would."""
    tried = tmp_path / "tried.html"
    tried.write_text(page.read_text().replace("</body>", DRIVER.replace("STEPS", steps) + "</body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={size}", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000"]
    done = subprocess.run(
        [*command, f"file://{tried}{hash}"], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stdout[-2000:]
    return json.loads(html.unescape(found[1]))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_in_a_real_browser(tmp_path: Path):
    """Pages, layers, score, window, filters, links and touch, as a person uses them."""
    page_of().write(tmp_path / "page.html")
    steps = """() => key("ArrowRight"), () => key("ArrowLeft"), () => key("d"), () => key("d"),
      () => set("score", 0.95, "input", "change"), () => set("score", 0.35, "input", "change"),
      () => set("level", 250, "input"), () => set("level", 128, "input"),
      () => set("kind", "background", "change"), () => set("kind", "", "change"),
      () => set("class", 1, "change"), () => set("class", "", "change"),
      () => { touch("pointerdown", 1, 300, 200); touch("pointermove", 1, 200, 200);
              touch("pointerup", 1, 200, 200); },
      () => { touch("pointerdown", 1, 190, 200); touch("pointerdown", 2, 210, 200);
              touch("pointermove", 1, 150, 200); touch("pointermove", 2, 250, 200); }"""
    seen = browse(tmp_path / "page.html", steps, tmp_path)
    first, right, left, off, back, high, low, dark, normal, kind, _, cls, every, swiped, pinched = seen
    assert (first["place"], first["name"]) == ("1 of 4", "a") == (first["place"], first["shown"])
    assert (right["place"], right["name"]) == ("2 of 4", "c")
    assert left["boxes"] == first["boxes"] == back["boxes"]
    assert first["boxes"] == [
        "Truth: Mass, 2 readers: hit",
        "Truth: </script><b>x, 4 readers: missed",
        "Detection: Mass 0.90: hit",
        "Detection: Mass 0.40: false alarm (duplicate)",
    ]
    assert off["boxes"] == first["boxes"][:2]
    assert high["boxes"] == ["Truth: Mass, 2 readers: missed", first["boxes"][1]]
    assert low["boxes"] == first["boxes"]
    assert dark["light"] < 0.7 * first["light"] and normal["light"] == first["light"]
    assert (kind["place"], kind["name"]) == ("1 of 1", "b")
    assert cls["place"] == "2 of 2" and every["place"].endswith("of 4")
    assert swiped["place"] != every["place"]
    assert float(re.search(r"z=([\d.]+)", pinched["hash"])[1]) > 3

    (again, _) = browse(
        tmp_path / "page.html", "() => {}", tmp_path, hash="#i=c&on=t&z=2&class=77", size="390,844"
    )
    assert (again["name"], again["boxes"]) == ("c", ["Truth: Mass, 1 reader: missed"])
    assert not again["wide"], "a phone need not scroll sideways"
