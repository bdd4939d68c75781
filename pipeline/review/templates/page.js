// Moving about, keys, and what is hidden until the reader has answered.
const rows = Array.from(document.querySelectorAll("#rows tr"));
const sections = Array.from(document.querySelectorAll("section.nodule-page"));
const blindBox = document.getElementById("blind");
const keysDialog = document.getElementById("keys");
let ordered = sections.slice();

function current() {
  const within = document.activeElement && document.activeElement.closest("section.nodule-page");
  if (within) {
    const box = within.getBoundingClientRect();
    if (box.bottom > 80 && box.top < window.innerHeight - 40) return ordered.indexOf(within);
  }
  let best = -1;
  ordered.forEach((section, index) => { if (section.getBoundingClientRect().top < window.innerHeight / 2) best = index; });
  return best;
}

function show(section) {
  if (!section) return;
  section.scrollIntoView({ block: "start" });
  section.focus({ preventScroll: true });
}

const step = (by) => show(ordered[Math.max(0, Math.min(current() + by, ordered.length - 1))]);
const numberNow = () => { const at = current(); return at < 0 ? -1 : Number(ordered[at].dataset.number); };

function choose(name, wanted) {
  const number = numberNow();
  if (number < 0) { show(ordered[0]); return; }
  const form = formOf(number);
  const radio = Array.from(form.elements[name]).find((item) => item.value === wanted);
  if (radio && !radio.disabled) { radio.checked = true; changed(form); }
}

function takePlace(number, taken) {
  const form = formOf(number), viewer = viewers.get(number);
  if (taken && (!viewer || value(form, "answer") !== "correct")) { showProgress("A position belongs to the answer Correct", true); return; }
  if (taken) state.places[number] = viewer.cross.slice(); else delete state.places[number];
  changed(form);
}

// Without the model's figures their order would still tell: hidden, findings stand as they lie, head to feet.
function arrange() {
  const root = document.documentElement;
  root.classList.toggle("blind", state.blind);
  if (HIDDEN) return;
  const place = (element) => data.findings[Number(element.dataset.number)].place;
  const by = state.blind ? (a, b) => place(a) - place(b) : (a, b) => a.dataset.number - b.dataset.number;
  ordered = sections.slice().sort(by);
  document.getElementById("nodules").append(...ordered);
  if (rows.length) document.getElementById("rows").append(...rows.slice().sort(by));
  ordered.forEach((section, index) => {
    section.classList.toggle("revealed", state.revealed.includes(Number(section.dataset.number)));
    for (const element of [section, rows[Number(section.dataset.number)]]) {
      for (const count of element.querySelectorAll("[data-count]")) count.textContent = index + 1;
    }
    nameParts(section);
  });
  nameElsewhere();
}

const countOf = (section) => ordered.indexOf(section) + 1;

// What a screen reader says of pictures and fields has the number that stands above them.
function nameParts(section) {
  for (const name of ["alt", "aria-label"]) {
    for (const element of section.querySelectorAll("[" + name + "]")) {
      element.setAttribute(name, element.getAttribute(name).replace(/nodule \d+/, "nodule " + countOf(section)));
    }
  }
}

// A banner or guideline that names a nodule follows the numbers, and a list of them must not keep the model's order.
function nameElsewhere() {
  const numbers = new Map(ordered.map((section) => [data.findings[Number(section.dataset.number)].finding_id, countOf(section)]));
  const named = (element) => Array.from(element.querySelectorAll(".nodule-number"));
  for (const list of document.querySelectorAll(".nodule-numbers")) {
    const ids = named(list).map((item) => item.dataset.finding).sort((a, b) => numbers.get(a) - numbers.get(b));
    named(list).forEach((item, at) => { item.dataset.finding = ids[at]; });
  }
  for (const item of named(document)) {
    if (numbers.has(item.dataset.finding)) item.textContent = "nodule " + numbers.get(item.dataset.finding);
  }
}

function setBlind(hidden) {
  if (HIDDEN) return;
  const isFirst = hidden && !state.wasBlind && !forms.some((form) => value(form, "answer"));
  state.blind = hidden;
  if (isFirst) { state.wasBlind = true; state.exposed = []; }
  if (!hidden) state.exposed = data.findings.map((_, number) => number);
  if (blindBox) blindBox.checked = hidden;
  arrange();
  keepDraft();
  showProgress();
}

function reveal(number) {
  if (!state.blind || HIDDEN || number < 0) return;
  if (!value(formOf(number), "answer")) { showProgress("Answer first: the AI's figures are shown after it", true); return; }
  state.revealed.push(number);
  state.exposed.push(number);
  arrange();
  show(sections[number]);
  keepDraft();
}

function toggleMap() {
  const details = sections[numberNow()] && sections[numberNow()].querySelector("details.maps");
  if (details) details.open = !details.open;
}

const viewerNow = () => viewers.get(numberNow());
const withViewer = (action) => () => { const viewer = viewerNow(); if (viewer) action(viewer); };
const preset = (index) => withViewer((viewer) => viewer.setWindow(data.windows[index].values));

const keys = { j: () => step(1), k: () => step(-1), s: save, "?": () => keysDialog.showModal(),
  a: () => choose("answer", "accept"), r: () => choose("answer", "reject"), c: () => choose("answer", "correct"),
  m: () => choose("malignant", "yes"), b: () => choose("malignant", "no"), o: () => choose("malignant", ""),
  1: preset(0), 2: preset(1), 3: preset(2), 0: withViewer((viewer) => viewer.reset()), h: toggleMap,
  z: withViewer((viewer) => viewer.enlarge(viewer.active)), n: withViewer(addMissedHere), v: () => reveal(numberNow()),
  p: () => { if (numberNow() >= 0) takePlace(numberNow(), true); }, x: () => setBlind(!state.blind),
  t: withViewer((viewer) => {
    const next = viewer.tiles[(viewer.tiles.indexOf(viewer.active) + 1) % viewer.tiles.length];
    next.canvas.focus({ preventScroll: true });
  }) };

// Arrows belong to the picture in which the focus is, or to the nodule that J or K went to.
function arrow(event) {
  const viewer = viewerNow(), steps = { ArrowUp: -1, ArrowDown: 1, PageUp: -5, PageDown: 5 };
  const inPicture = event.target.matches("canvas");
  if (!viewer || !(inPicture || event.target.matches("section.nodule-page"))) return false;
  const tile = viewer.active, last = viewer.stack.n[tile.plane.w] - 1;
  if (event.shiftKey && event.key.startsWith("Arrow")) {
    const move = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    viewer.nudge(tile, ...move);
  } else if (event.key in steps && (inPicture || event.key.startsWith("Arrow"))) viewer.scrollBy(tile, steps[event.key]);
  else if (inPicture && event.key === "Home") viewer.scrollTo(tile, viewer.fromTop(tile, 0));
  else if (inPicture && event.key === "End") viewer.scrollTo(tile, viewer.fromTop(tile, last));
  else return false;
  return true;
}

document.addEventListener("keydown", (event) => {
  if (keysDialog.open || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input[type=text], input[type=number], select, textarea")) return;
  if (arrow(event)) { event.preventDefault(); return; }
  const action = keys[event.key.toLowerCase()];
  if (!action) return;
  event.preventDefault();
  action();
});

for (const form of forms) {
  const number = Number(form.dataset.number);
  form.addEventListener("change", () => changed(form));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.querySelector("[data-action=take]").addEventListener("click", () => takePlace(number, true));
  form.querySelector("[data-action=untake]").addEventListener("click", () => takePlace(number, false));
}
for (const button of document.querySelectorAll("[data-action=reveal]")) {
  button.addEventListener("click", () => reveal(Number(button.closest("section").dataset.number)));
}
missedForm.addEventListener("submit", (event) => { event.preventDefault(); submitMissed(); });
missedForm.elements.kind.addEventListener("change", nameAxes);
missedForm.elements.kind.options[1].disabled = !data.series.every((series) => series.affine_lps.length === 3);
for (const field of [reader, comment]) field.addEventListener("input", () => { saved = false; keepDraft(); });
document.getElementById("save").addEventListener("click", save);
document.getElementById("next").addEventListener("click", () => step(1));
document.getElementById("previous").addEventListener("click", () => step(-1));
document.getElementById("help").addEventListener("click", () => keysDialog.showModal());
if (readNone) readNone.addEventListener("change", () => { sayNone(readNone.checked); changed(); showProgress(); });
if (blindBox) blindBox.addEventListener("change", () => setBlind(blindBox.checked));
window.addEventListener("beforeunload", (event) => { if (!saved) event.preventDefault(); });

// A stack is opened when its nodule comes near: twenty of them at once would make a tablet wait.
async function openViewer(root) {
  const number = Number(root.dataset.number), finding = data.findings[number];
  const block = document.getElementById(finding.stack);
  if (!block) return;
  try {
    const viewer = new Viewer(root, await openStack(block.textContent), "nodule " + countOf(root.closest("section")));
    const series = data.series.find((item) => item.series_key === finding.series_key);
    viewer.total = series ? series.n_slices : 0;
    viewer.marks = () => state.missed.concat(state.places[number] ? [{ lps_mm: state.places[number], diameter_mm: 0 }] : []);
    viewers.set(number, viewer);
    viewer.draw();
  } catch (error) {
    root.querySelector(".tools").textContent = "This browser cannot scroll through the slices; the key images are all here.";
    root.querySelector(".tools").hidden = false;
  }
  refresh(formOf(number));
}

restoreDraft();
arrange();
if (blindBox) blindBox.checked = state.blind;
if (location.hash === "#blind") setBlind(true);
forms.forEach(refresh);
showProgress();
const near = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); openViewer(entry.target); }
}, { rootMargin: "800px" });
for (const root of document.querySelectorAll(".viewer")) if (data.findings[Number(root.dataset.number)].stack) near.observe(root);
