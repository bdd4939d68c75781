// What the reader answers: one answer a finding, nodules that were missed, a comment; as feedback.json holds them.
const data = JSON.parse(document.getElementById("answer-data").textContent);
const forms = Array.from(document.querySelectorAll("form.answer"));
const missedForm = document.getElementById("missed-form");
const reader = document.getElementById("reader");
const comment = document.getElementById("comment");
const progress = document.getElementById("progress");
// Only on a page without findings: the reader says that this is right.
const readNone = document.getElementById("read-none");
const words = { accept: "accepted", reject: "rejected", correct: "corrected" };
const viewers = new Map();
// A page for a blind reading has no figure of the model at all.
const HIDDEN = data.reading === "blind" || data.reading === "second";
// places: corrected positions by number; exposed: findings whose AI figures were shown; late: answered after that.
const state = { none: false, places: {}, missed: [], blind: HIDDEN, exposed: [], late: [], revealed: [] };
let saved = true;

const formOf = (number) => forms.find((form) => Number(form.dataset.number) === number);
const value = (form, name) => { const field = form.elements[name]; return field ? field.value : ""; };
const held = (place) => place.map((mm) => Math.round(mm * 100) / 100);
const placeWords = (place) => "L " + place[0].toFixed(1) + " P " + place[1].toFixed(1) + " S " + place[2].toFixed(1);

// Fields that make no sense with the answer are off, so that what is saved is always consistent.
function refresh(form) {
  const answer = value(form, "answer"), number = Number(form.dataset.number);
  for (const name of ["diameter", "type", "category"]) form.elements[name].disabled = answer !== "correct";
  form.querySelector(".corrections").classList.toggle("off", answer !== "correct");
  for (const radio of form.elements.malignant) radio.disabled = answer === "reject";
  for (const group of form.elements.reason.querySelectorAll("optgroup")) {
    group.disabled = group.dataset.answer !== "any" && group.dataset.answer !== answer;
  }
  const chosen = form.elements.reason.selectedOptions[0];
  if (chosen && chosen.parentElement.disabled) form.elements.reason.value = "";
  const place = state.places[number], canTake = answer === "correct" && viewers.has(number);
  form.querySelector("[data-place]").textContent = place ? placeWords(place) : "as reported";
  form.querySelector("[data-action=take]").disabled = !canTake;
  form.querySelector("[data-action=untake]").hidden = !place;
  const badge = document.getElementById("state-" + number);
  badge.textContent = words[answer] || "–";
  badge.dataset.answer = answer;
  form.querySelector(".error").textContent = "";
  showProgress();
}

function showProgress(text, bad) {
  const n = forms.filter((form) => value(form, "answer")).length;
  const more = state.missed.length ? ", " + state.missed.length + " added" : "";
  const counted = forms.length ? n + " of " + forms.length + " answered" : state.none ? "Read: nothing missed" : "No findings";
  progress.textContent = text || counted + more;
  progress.classList.toggle("bad", Boolean(bad));
}

function changed(form) {
  saved = false;
  if (form) {
    const number = Number(form.dataset.number);
    if ((!state.blind || state.exposed.includes(number)) && !state.late.includes(number)) state.late.push(number);
    refresh(form);
  }
  for (const viewer of viewers.values()) viewer.draw();
  keepDraft();
}

// One answer as feedback.json holds it; null where nothing was answered, a text where it is not complete.
function readAnswer(form) {
  const answer = value(form, "answer");
  if (!answer) return null;
  const number = Number(form.dataset.number), finding = data.findings[number];
  const malignant = answer === "reject" ? "" : value(form, "malignant");
  const typed = form.elements.diameter, corrects = answer === "correct";
  const result = { finding_id: finding.finding_id, nodule_id: finding.nodule_id, answer: answer,
    malignant: malignant === "" ? null : malignant === "yes",
    diameter_mm: corrects && typed.value !== "" ? Number(typed.value) : null,
    nodule_type: (corrects && value(form, "type")) || null, lung_rads: (corrects && value(form, "category")) || null,
    lps_mm: corrects && state.places[number] ? held(state.places[number]) : null, reason: value(form, "reason") };
  if (corrects && (typed.validity.badInput || (result.diameter_mm !== null && !isDiameter(result.diameter_mm)))) {
    return "The diameter is a number of millimetres from 0.1 to 300.";
  }
  const given = [result.malignant, result.diameter_mm, result.nodule_type, result.lung_rads, result.lps_mm];
  if (corrects && given.every((item) => item === null) && !result.reason) {
    return "A correction needs a diameter, a type, a category, a position, a judgement or a reason.";
  }
  return result;
}

const isDiameter = (mm) => mm >= 0.1 && mm <= 300;

function collect() {
  const answers = [];
  for (const form of forms) {
    const answer = readAnswer(form);
    if (typeof answer === "string") {
      form.querySelector(".error").textContent = answer;
      show(form.closest("section"));
      return null;
    }
    if (answer) answers.push(answer);
  }
  if (!answers.length && !state.missed.length && !state.none) {
    showProgress(readNone ? "Say that no nodule is missing, or add one" : "Answer at least one finding first", true);
    if (readNone) readNone.focus();
    return null;
  }
  if (!reader.value.trim()) { showProgress("Please fill in the reader", true); reader.focus(); return null; }
  const answered = forms.filter((form) => value(form, "answer")).map((form) => Number(form.dataset.number));
  const blind = state.blind || state.wasBlind;
  const seen = !blind || answered.some((number) => state.late.includes(number));
  return { schema_version: 2, study_key: data.study_key, model_version: data.model_version, reader: reader.value.trim(),
    role: data.reading === "adjudication" ? "adjudicator" : "reader", time_utc: new Date().toISOString(),
    model_visible_first: seen, second_read: data.reading === "second",
    answers: answers, missed: state.missed.map((item) => ({ ...item, lps_mm: held(item.lps_mm) })), comment: comment.value };
}

function download(feedback) {
  const blob = new Blob([JSON.stringify(feedback, null, 2) + "\n"], { type: "application/json" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = "feedback.json";
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// A page that a local server handed out carries where to post to, and the token of the session.
async function save() {
  const feedback = collect();
  if (!feedback) return;
  const post = document.querySelector('meta[name="noduleflow-post"]');
  const added = feedback.missed.length ? ", " + feedback.missed.length + " added" : "";
  const what = state.none ? "Nothing missed" : feedback.answers.length + " answered" + added;
  if (!post) {
    download(feedback);
    saved = true;
    showProgress(what + ": saved to feedback.json");
    return;
  }
  showProgress("Sending …");
  try {
    const token = document.querySelector('meta[name="noduleflow-token"]');
    const answer = await fetch(post.content || "feedback", { method: "POST", body: JSON.stringify(feedback),
      headers: { "Content-Type": "application/json", "X-Noduleflow-Token": token ? token.content : "" } });
    const said = serverWords(await answer.text());
    saved = answer.ok;
    showProgress(answer.ok ? said || what + ": kept" : "Not kept: " + (said || "status " + answer.status), !answer.ok);
  } catch (error) {
    showProgress("Not kept: the server does not answer. Save again, or keep this page open.", true);
  }
}

// The sentence in what a server answered, if it is short enough to be one.
function serverWords(text) {
  try {
    const body = JSON.parse(text);
    text = String(body.message || body.error || body.detail || "");
  } catch (error) { /* not JSON: a plain sentence */ }
  return text.length <= 300 ? text.trim() : text.slice(0, 300) + " …";
}

function addMissed(item) {
  state.missed.push(item);
  sayNone(false);
  showMissed();
  changed();
  showProgress();
}

function addMissedHere(viewer) {
  const finding = data.findings[Number(viewer.root.dataset.number)];
  const fields = missedForm.elements;
  fields.series.value = finding.series_key;
  fields.kind.value = "lps";
  nameAxes();
  ["first", "second", "third"].forEach((name, axis) => { fields[name].value = viewer.cross[axis].toFixed(1); });
  fields.diameter.value = "";
  document.getElementById("missed").scrollIntoView({ block: "start" });
  fields.diameter.focus({ preventScroll: true });
}

function nameAxes() {
  const names = missedForm.elements.kind.value === "lps" ? ["x, mm to the left", "y, mm to the back", "z, mm to the head"] : ["Slice", "Row", "Column"];
  missedForm.querySelectorAll("[data-axis]").forEach((label, axis) => { label.textContent = names[axis]; });
}

function submitMissed() {
  const fields = missedForm.elements, complaint = missedForm.querySelector(".error");
  const numbers = ["first", "second", "third"].map((name) => (fields[name].value === "" ? NaN : Number(fields[name].value)));
  const series = data.series.find((item) => item.series_key === fields.series.value);
  let place = numbers;
  complaint.textContent = "";
  if (numbers.some((number) => !Number.isFinite(number) || Math.abs(number) > 100000)) { complaint.textContent = "The place is three numbers."; return; }
  if (fields.kind.value === "kji") {
    const kji = numbers.map((number) => number - 1);
    if (kji.some((index, axis) => index < -0.5 || index > series.shape_kji[axis] - 0.5)) { complaint.textContent = "The series has " + series.shape_kji.join(" slices, ") .replace(/ slices, (\d+)$/, " rows and $1 columns") + "."; return; }
    place = [0, 1, 2].map((row) => series.affine_lps[row][3] + kji.reduce((sum, index, axis) => sum + series.affine_lps[row][axis] * index, 0));
  }
  const diameter = fields.diameter.value === "" ? NaN : Number(fields.diameter.value);
  if (!isDiameter(diameter)) { complaint.textContent = "The diameter is a number of millimetres from 0.1 to 300."; fields.diameter.focus(); return; }
  addMissed({ lps_mm: place, diameter_mm: diameter, nodule_type: fields.type.value || null,
    malignant: fields.malignant.value ? fields.malignant.value === "yes" : null, series_key: fields.series.value });
  for (const name of ["first", "second", "third", "diameter", "type", "malignant"]) fields[name].value = "";
}

function sayNone(isSo) {
  state.none = isSo && !state.missed.length;
  if (readNone) readNone.checked = state.none;
}

function showMissed() {
  const list = document.getElementById("missed-list");
  list.replaceChildren(...state.missed.map((item, index) => {
    const line = document.createElement("li");
    const remove = document.createElement("button");
    remove.type = "button";
    remove.className = "plain small";
    remove.textContent = "Remove";
    remove.setAttribute("aria-label", "Remove missed nodule " + (index + 1));
    remove.addEventListener("click", () => { state.missed.splice(index, 1); showMissed(); changed(); showProgress(); });
    line.append(item.diameter_mm + " mm at " + placeWords(item.lps_mm) + " ", remove);
    return line;
  }));
}

// A reload of the tab loses nothing; another tab, and the next reader, start empty.
const DRAFT = ["noduleflow", data.study_key, data.model_version, data.created_utc, data.reading].join(" ");

function keepDraft() {
  const answers = forms.map((form) => Object.fromEntries(["answer", "malignant", "diameter", "type", "category", "reason"].map((name) => [name, value(form, name)])));
  try { sessionStorage.setItem(DRAFT, JSON.stringify({ ...state, reader: reader.value, comment: comment.value, answers })); } catch (error) { /* no storage here */ }
}

function restoreDraft() {
  let draft = null;
  try { draft = JSON.parse(sessionStorage.getItem(DRAFT)); } catch (error) { /* no storage here */ }
  if (!draft || !Array.isArray(draft.answers) || draft.answers.length !== forms.length) return;
  const { answers, reader: name, comment: text, ...rest } = draft;
  Object.assign(state, rest);
  reader.value = name;
  comment.value = text;
  forms.forEach((form, at) => { for (const [field, was] of Object.entries(answers[at])) form.elements[field].value = was; });
  sayNone(Boolean(state.none));
  saved = !forms.some((form) => value(form, "answer")) && !state.missed.length && !state.none;
  showMissed();
}
