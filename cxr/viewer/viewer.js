"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const brightest = data.bits === 16 ? 65535 : 255;
  const HIT = "#2fd39b", MISS = "#ffb31a", ALARM = "#ff5ea8", OPEN = "#7db7ff", READER = "#d5d9dd";
  const DASHES = { readers: [2, 3], truth: [8, 4], found: [] };
  const LAYERS = { readers: "r", truth: "t", found: "d", names: "n" };
  const SELECTS = ["color", "sort", "class", "kind", "reader", "part"];
  const SLIDERS = ["score", "level", "width"];

  // -- the state: everything that a link carries
  const start = {
    i: "", on: "rtdn", score: data.score, level: Math.ceil(brightest / 2), width: brightest + 1,
    color: data.has.judged ? "outcome" : "class",
    sort: data.has.judged ? "wrong" : data.has.found ? "score" : data.has.truth ? "apart" : "boxes",
    class: "", kind: "", reader: "", part: "", z: 1, x: 0.5, y: 0.5,
  };
  if (data.has.found && data.has.truth) start.on = "tdn";
  let state = { ...start };
  let list = [];
  let picked = null;

  function readHash() {
    state = { ...start };
    for (const [key, value] of new URLSearchParams(location.hash.slice(1))) {
      if (!(key in start)) continue;
      if (typeof start[key] !== "number") state[key] = value;
      else if (value !== "" && Number.isFinite(Number(value))) state[key] = Number(value);
    }
    state.z = Math.min(40, Math.max(1, state.z));
    for (const id of SELECTS) {
      // A value that this page does not offer counts as not given.
      const offered = [...$(id).options].filter((option) => !option.disabled).map((option) => option.value);
      if (!offered.includes(state[id])) state[id] = start[id];
    }
  }
  let waiting = 0;
  function address() {
    const some = Object.entries(state).filter(([key, value]) => value !== start[key]);
    const rounded = some.map(([key, v]) => [key, typeof v === "number" ? String(+v.toFixed(4)) : v]);
    return location.href.split("#")[0] + "#" + new URLSearchParams(rounded);
  }
  function writeHash() {
    if (window.self !== window.top) return; // a frame in a notebook has no address
    clearTimeout(waiting);
    waiting = setTimeout(() => history.replaceState(null, "", address()), 120);
  }

  // -- boxes: what became of each at the score chosen
  const images = data.images.map((image, place) => {
    const boxes = [];
    const add = (layer, rows, rest) => (rows || []).forEach((r) =>
      boxes.push({ layer, edges: r.slice(0, 4), cls: r[4], judged: image.judged, ...rest(r) }));
    add("readers", image.readers, (r) => ({ reader: r[5] }));
    add("truth", image.truth, (r) => ({ count: r[5], agreement: r[6], hitScore: r[7] }));
    add("found", image.found, (r) => ({ score: r[5], what: r[6] }));
    return { ...image, place, boxes, read: image.read || [] };
  });
  const on = (layer) => state.on.includes(LAYERS[layer]);

  function outcome(box) {
    if (!box.judged || box.layer === "readers") return "";
    if (box.layer === "found") return data.kinds[box.what];
    return (box.hitScore ?? -1) >= state.score ? "hit" : "missed";
  }
  const high = (box) => box.layer !== "found" || box.score >= state.score;
  const ofClass = (box) => state.class === "" || box.cls === Number(state.class);
  const counts = (box) => high(box) && ofClass(box);
  const visible = (box) => on(box.layer) && counts(box) &&
    (box.layer !== "readers" || state.reader === "" || box.reader === Number(state.reader));

  function howWrong(image) {
    if (!image.judged) return -1;
    let sum = 0;
    for (const box of image.boxes.filter(counts)) {
      if (outcome(box) === "missed") sum += 1;
      else if (box.layer === "found" && outcome(box) !== "hit") sum += box.score;
    }
    return sum;
  }
  const ORDERS = {
    wrong: howWrong,
    score: (image) => image.boxes.filter(ofClass).reduce((best, b) => Math.max(best, b.score ?? 0), 0),
    apart: (image) => image.boxes.filter(ofClass).reduce((sum, b) => sum + 1 - (b.agreement ?? 1), 0),
    boxes: (image) => image.boxes.filter(counts).length,
    name: () => 0,
  };

  function passes(image) {
    if (state.part && image.part !== state.part) return false;
    if (state.reader !== "" && !image.read.includes(Number(state.reader))) return false;
    if (state.kind) return image.boxes.some((box) => counts(box) && outcome(box) === state.kind);
    return state.class === "" || image.boxes.some(counts);
  }

  function arrange() {
    const keyed = images.filter(passes).map((image) => [ORDERS[state.sort](image), image]);
    keyed.sort((a, b) => b[0] - a[0] || (a[1].id < b[1].id ? -1 : 1));
    list = keyed.map(([, image]) => image);
    if (!list.some((image) => image.id === state.i)) state.i = list.length ? list[0].id : "";
  }
  const current = () => list.find((image) => image.id === state.i);

  // -- pixels: decoded once, windowed by a table of all grey values
  const held = new Map();
  const grey = document.createElement("canvas");
  let painted = "";
  function load(image) {
    if (!image) return Promise.resolve(null);
    if (!held.has(image.place)) {
      held.set(image.place, decode(image));
      if (held.size > 8) held.delete(held.keys().next().value);
    }
    return held.get(image.place);
  }

  async function decode(image) {
    const picture = new Image();
    picture.src = "data:image/webp;base64," + $("px" + image.place).textContent;
    await picture.decode();
    const canvas = document.createElement("canvas");
    const [width, height] = [picture.naturalWidth, picture.naturalHeight];
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0);
    const rgba = context.getImageData(0, 0, width, height).data;
    const values = data.bits === 16 ? new Uint16Array(rgba.length / 4) : new Uint8Array(rgba.length / 4);
    for (let p = 0; p < values.length; p++) {
      values[p] = data.bits === 16 ? rgba[4 * p] * 256 + rgba[4 * p + 1] : rgba[4 * p];
    }
    return { values, width, height };
  }

  function paint(image, pixels) {
    const key = [image.place, state.level, state.width].join();
    if (key === painted) return;
    painted = key;
    const table = new Uint8ClampedArray(brightest + 1);
    const low = state.level - state.width / 2;
    for (let v = 0; v <= brightest; v++) table[v] = ((v - low) / state.width) * 255;
    [grey.width, grey.height] = [pixels.width, pixels.height];
    const context = grey.getContext("2d");
    const target = context.createImageData(grey.width, grey.height);
    const words = new Uint32Array(target.data.buffer);
    for (let p = 0; p < words.length; p++) words[p] = 0xff000000 | (table[pixels.values[p]] * 0x010101);
    context.putImageData(target, 0, 0);
  }

  // -- drawing
  const canvas = $("canvas");
  const name = (box) => data.classes[box.cls][0];

  function color(box) {
    if (state.color === "class") return data.classes[box.cls][1];
    const what = outcome(box);
    if (box.layer === "readers") return READER;
    return what === "" ? OPEN : what === "hit" ? HIT : what === "missed" ? MISS : ALARM;
  }

  function label(box) {
    if (box.layer === "readers") return `${data.readers[box.reader]} ${name(box)}`;
    if (box.layer === "found") return `${name(box)} ${box.score.toFixed(2)}`;
    return box.count === null ? name(box) : `${name(box)}, ${box.count} reader${box.count === 1 ? "" : "s"}`;
  }

  function view(image) {
    const { clientWidth: w, clientHeight: h } = canvas;
    const scale = Math.min(w / image.size[0], h / image.size[1]) * state.z;
    return { scale, left: w / 2 - state.x * image.size[0] * scale, top: h / 2 - state.y * image.size[1] * scale };
  }

  async function draw() {
    const image = current();
    const pixels = await load(image).catch(() => null);
    if (image !== current()) return;
    $("message").textContent = !image ? "No image passes the filters."
      : pixels ? "" : "This browser cannot show the image (WebP).";
    const dots = window.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [canvas.clientWidth * dots, canvas.clientHeight * dots];
    const context = canvas.getContext("2d");
    context.scale(dots, dots);
    if (image && pixels) {
      paint(image, pixels);
      const { scale, left, top } = view(image);
      context.imageSmoothingEnabled = scale * image.size[0] < 4 * pixels.width;
      context.drawImage(grey, left, top, image.size[0] * scale, image.size[1] * scale);
      const shown = image.boxes.filter(visible);
      shown.forEach((box) => outline(context, box, scale, left, top));
      const taken = [];
      if (on("names")) shown.forEach((box) => caption(context, box, scale, left, top, taken));
    }
    canvas.dataset.shown = image ? image.id : "";
    load(list[list.indexOf(image) + 1]).catch(() => null);
  }

  function outline(context, box, scale, left, top) {
    const [x0, y0, x1, y1] = box.edges;
    context.globalAlpha = picked && picked !== box ? 0.25 : 1;
    context.setLineDash(DASHES[box.layer]);
    const thin = box.layer === "readers" ? 1.5 : 2;
    for (const [strokeStyle, lineWidth] of [["#000a", thin + 2], [color(box), picked === box ? thin + 2 : thin]]) {
      Object.assign(context, { strokeStyle, lineWidth });
      context.strokeRect(left + x0 * scale, top + y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale);
    }
  }
  function caption(context, box, scale, left, top, taken) {
    const [x0, y0, x1, y1] = box.edges.map((edge, n) => edge * scale + (n % 2 ? top : left));
    const outside = x1 < 0 || y1 < 0 || x0 > canvas.clientWidth || y0 > canvas.clientHeight;
    if (outside || (picked && picked !== box)) return;
    context.font = "12px system-ui, sans-serif";
    const width = context.measureText(label(box)).width + 6;
    // Each layer has its own corner, and words that would cover others move down.
    const x = Math.min(Math.max(0, box.layer === "readers" ? x1 - width : x0), canvas.clientWidth - width);
    let y = Math.min(Math.max(0, box.layer === "found" ? y0 - 17 : box.layer === "truth" ? y1 + 1 : y1 - 17),
      canvas.clientHeight - 16);
    const covers = (other) => Math.abs(other.y - y) < 16 && other.x < x + width && x < other.x + other.width;
    while (taken.some(covers) && y < canvas.clientHeight) y += 16;
    taken.push({ x, y, width });
    Object.assign(context, { globalAlpha: 1, fillStyle: "#000c" });
    context.fillRect(x, y, width, 16);
    context.fillStyle = color(box);
    context.fillText(label(box), x + 3, y + 12);
  }

  // -- the panel
  function element(tag, content, background) {
    const made = document.createElement(tag);
    made.append(...content);
    if (background) Object.assign(made, { className: "swatch" }).style.background = background;
    return made;
  }
  const marked = (tag, text, swatch) => element(tag, [element("span", [], swatch), text]);
  const verdict = (what) => what in { hit: 0, missed: 0 } ? what : `false alarm (${what})`;

  function fillPanel() {
    const image = current();
    const place = list.indexOf(image);
    $("place").textContent = `${place + 1} of ${list.length}`;
    $("name").textContent = image ? image.id : "";
    const about = image ? [image.part, `${image.size.join(" x ")} px`] : [];
    if (image?.read.length) about.push(`read by ${image.read.map((reader) => data.readers[reader]).join(", ")}`);
    if (image?.judged) about.push(`how wrong: ${howWrong(image).toFixed(2)}`);
    $("about").textContent = about.join(", ");
    const shown = image ? image.boxes.filter(visible) : [];
    if (!shown.includes(picked)) picked = null;
    $("boxes").replaceChildren(...shown.map((box) => {
      const layer = { readers: "", truth: "Truth: ", found: "Detection: " }[box.layer];
      const end = outcome(box) ? `: ${verdict(outcome(box))}` : "";
      const button = marked("button", layer + label(box) + end, color(box));
      button.setAttribute("aria-pressed", String(picked === box));
      button.onclick = () => { picked = picked === box ? null : box; fillPanel(); draw(); };
      return element("li", [button]);
    }));
    const present = [...new Set(shown.map((box) => box.cls))].sort((a, b) => a - b);
    const words = state.color === "class" ? present.map((c) => data.classes[c])
      : data.has.judged ? [["hit", HIT], ["miss", MISS], ["false alarm", ALARM]] : [];
    $("legend").replaceChildren(...words.map(([word, swatch]) => marked("span", word, swatch)));
    for (const id of SLIDERS) {
      $(id).value = state[id];
      $(id + "-value").textContent = id === "score" ? state[id].toFixed(2) : state[id];
    }
    for (const id of SELECTS) $(id).value = state[id];
    for (const layer of Object.keys(LAYERS)) $("on-" + layer).checked = on(layer);
  }

  function refresh(again = true) {
    if (again) arrange();
    fillPanel();
    draw();
    writeHash();
  }

  function go(to) {
    if (!list.length) return;
    state.i = list[Math.min(list.length - 1, Math.max(0, to))].id;
    Object.assign(state, { z: 1, x: 0.5, y: 0.5 });
    picked = null;
    refresh(false);
  }
  const step = (by) => go(list.indexOf(current()) + by);
  function toggle(layer) {
    state.on = on(layer) ? state.on.replace(LAYERS[layer], "") : state.on + LAYERS[layer];
    refresh(false);
  }

  // -- mouse, touch, keys
  function pan(dx, dy) {
    const image = current();
    if (!image) return;
    const { scale } = view(image);
    state.x = Math.min(1, Math.max(0, state.x - dx / (image.size[0] * scale)));
    state.y = Math.min(1, Math.max(0, state.y - dy / (image.size[1] * scale)));
  }

  function zoom(factor, px = canvas.clientWidth / 2, py = canvas.clientHeight / 2) {
    const before = state.z;
    state.z = Math.min(40, Math.max(1, before * factor));
    // What lies under the pointer stays there.
    const moved = 1 - state.z / before;
    pan((px - canvas.clientWidth / 2) * moved, (py - canvas.clientHeight / 2) * moved);
    if (state.z === 1) [state.x, state.y] = [0.5, 0.5];
    draw();
    writeHash();
  }
  const down = new Map();
  let swiped = 0;
  const spread = () => {
    const [a, b] = [...down.values()];
    return { distance: Math.hypot(a.x - b.x, a.y - b.y), x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    swiped = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const last = down.get(event.pointerId);
    if (!last) return;
    const before = down.size === 2 ? spread() : null;
    down.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    if (before) {
      const after = spread();
      swiped = 0;
      pan(after.x - before.x, after.y - before.y);
      zoom(after.distance / Math.max(1, before.distance), after.x, after.y);
    } else if (down.size === 1 && (state.z > 1 || event.pointerType === "mouse")) {
      pan(event.offsetX - last.x, event.offsetY - last.y);
      draw();
      writeHash();
    } else {
      swiped += event.offsetX - last.x;
    }
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => {
      down.delete(event.pointerId);
      if (end === "pointerup" && down.size === 0 && Math.abs(swiped) > 50) step(swiped < 0 ? 1 : -1);
      swiped = 0;
    });
  }
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * 0.0015), event.offsetX, event.offsetY);
  }, { passive: false });
  canvas.addEventListener("dblclick", (event) => zoom(state.z > 1 ? 1 / state.z : 2.5, event.offsetX, event.offsetY));

  const KEYS = {
    ArrowRight: () => step(1), ArrowLeft: () => step(-1), Home: () => go(0), End: () => go(list.length - 1),
    r: () => toggle("readers"), t: () => toggle("truth"), d: () => toggle("found"), n: () => toggle("names"),
    c: () => { state.color = state.color === "class" ? "outcome" : "class"; refresh(false); },
    "+": () => zoom(1.3), "-": () => zoom(1 / 1.3), 0: () => zoom(1 / state.z),
  };
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches?.("select, input[type=range]");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
    event.preventDefault();
    KEYS[event.key]();
  });

  // -- start
  const options = (id, values) => values.forEach(([value, text]) => $(id).append(new Option(text, value)));
  options("class", data.classes.map(([word], n) => [n, word]));
  options("kind", [...data.kinds, "missed"].map((kind) => [kind, kind]));
  options("reader", data.readers.map((reader, n) => [n, reader]));
  options("part", [...new Set(images.map((image) => image.part))].map((part) => [part, part]));
  document.querySelectorAll("[data-needs]").forEach((node) => {
    node.hidden = node.disabled = !data.has[node.dataset.needs];
  });
  $("part").parentElement.hidden = $("part").options.length < 3; // "all" and the only one
  data.facts.forEach((fact) => $("facts").append(element("li", [fact])));
  $("iou").textContent = data.iou;
  for (const id of ["level", "width"]) $(id).max = brightest + 1;
  for (const id of SLIDERS) {
    $(id).addEventListener("input", () => { state[id] = Number($(id).value); refresh(false); });
    // The order changes when the slider is let go, and the arrow keys page again.
    $(id).addEventListener("change", () => refresh(id === "score"));
    $(id).addEventListener("pointerup", () => $(id).blur());
  }
  for (const id of SELECTS) {
    $(id).addEventListener("change", () => { state[id] = $(id).value; refresh(); $(id).blur(); });
  }
  for (const layer of Object.keys(LAYERS)) $("on-" + layer).addEventListener("change", () => toggle(layer));
  Object.entries({ previous: KEYS.ArrowLeft, next: KEYS.ArrowRight, reset: KEYS[0] })
    .forEach(([id, act]) => { $(id).onclick = act; });
  $("link").hidden = window.self !== window.top;
  $("link").onclick = async () => {
    try {
      await navigator.clipboard.writeText(address());
      $("copied").textContent = "copied";
    } catch {
      window.prompt("Link to this view", address());
    }
  };
  window.addEventListener("hashchange", () => { readHash(); refresh(); });
  window.addEventListener("resize", draw);
  readHash();
  refresh();
})();
