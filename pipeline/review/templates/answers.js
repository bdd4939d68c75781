"use strict";
const data = JSON.parse(document.getElementById("answer-data").textContent);
const forms = Array.from(document.querySelectorAll("form.answer"));
const sections = Array.from(document.querySelectorAll("section.nodule-page"));
const reader = document.getElementById("reader");
const progress = document.getElementById("progress");
const words = { accept: "accepted", reject: "rejected", correct: "corrected" };
let saved = true;

const value = (form, name) => { const field = form.elements[name]; return field ? field.value : ""; };

// Fields that make no sense with the answer are off, so that what is saved is always consistent.
function refresh(form) {
  const answer = value(form, "answer");
  form.elements.diameter.disabled = answer !== "correct";
  for (const radio of form.elements.malignant) radio.disabled = answer === "reject";
  for (const group of form.elements.reason.querySelectorAll("optgroup")) {
    group.disabled = group.dataset.answer !== "any" && group.dataset.answer !== answer;
  }
  const chosen = form.elements.reason.selectedOptions[0];
  if (chosen && chosen.parentElement.disabled) form.elements.reason.value = "";
  const state = document.getElementById("state-" + form.dataset.number);
  state.textContent = words[answer] || "–";
  state.dataset.answer = answer;
  form.querySelector(".error").textContent = "";
  showProgress();
}

function showProgress(text) {
  const n = forms.filter((form) => value(form, "answer")).length;
  progress.textContent = text || n + " of " + forms.length + " answered";
}

// One answer as feedback.json holds it; null where nothing was answered, a text where it is not complete.
function readAnswer(form) {
  const answer = value(form, "answer");
  if (!answer) return null;
  const finding = data.findings[Number(form.dataset.number)];
  const malignant = answer === "reject" ? "" : value(form, "malignant");
  const typed = form.elements.diameter;
  const result = { finding_id: finding.finding_id, nodule_id: finding.nodule_id, answer: answer,
    malignant: malignant === "" ? null : malignant === "yes",
    diameter_mm: answer === "correct" && typed.value !== "" ? Number(typed.value) : null,
    comment_code: value(form, "reason") };
  if (answer === "correct" && (typed.validity.badInput || (result.diameter_mm !== null &&
      !(result.diameter_mm > 0 && result.diameter_mm <= 300)))) return "The diameter is a number of millimetres up to 300.";
  if (answer === "correct" && result.malignant === null && result.diameter_mm === null && !result.comment_code) {
    return "A correction needs a diameter, a judgement or a reason.";
  }
  return result;
}

function collect() {
  const answers = [];
  for (const form of forms) {
    const answer = readAnswer(form);
    if (typeof answer === "string") {
      form.querySelector(".error").textContent = answer;
      show(Number(form.dataset.number));
      return null;
    }
    if (answer) answers.push(answer);
  }
  if (!answers.length) { showProgress("Answer at least one finding first"); return null; }
  if (!reader.value.trim()) { showProgress("Please fill in the reader"); reader.focus(); return null; }
  return { schema_version: 1, study_key: data.study_key, model_version: data.model_version, reader: reader.value.trim(),
    time_utc: new Date().toISOString(), model_visible_first: true, answers: answers };
}

function save() {
  const feedback = collect();
  if (!feedback) return;
  const blob = new Blob([JSON.stringify(feedback, null, 2) + "\n"], { type: "application/json" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = "feedback.json";
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  saved = true;
  showProgress(feedback.answers.length + " saved to feedback.json");
}

function current() {
  let best = -1;
  sections.forEach((section, index) => { if (section.getBoundingClientRect().top < window.innerHeight / 2) best = index; });
  return best;
}

function show(index) {
  const section = sections[Math.max(0, Math.min(index, sections.length - 1))];
  if (!section) return;
  section.scrollIntoView({ block: "start" });
  section.focus({ preventScroll: true });
}

function choose(name, wanted) {
  const form = forms[current()];
  if (!form) { show(0); return; }
  const radio = Array.from(form.elements[name]).find((item) => item.value === wanted);
  if (radio && !radio.disabled) { radio.checked = true; saved = false; refresh(form); }
}

const keys = { j: () => show(current() + 1), k: () => show(current() - 1), s: save,
  a: () => choose("answer", "accept"), r: () => choose("answer", "reject"), c: () => choose("answer", "correct"),
  m: () => choose("malignant", "yes"), b: () => choose("malignant", "no") };

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input[type=text], input[type=number], select");
  const action = keys[event.key.toLowerCase()];
  if (!action || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  action();
});
for (const form of forms) {
  form.addEventListener("change", () => { saved = false; refresh(form); });
  form.addEventListener("submit", (event) => event.preventDefault());
  refresh(form);
}
document.getElementById("save").addEventListener("click", save);
document.getElementById("next").addEventListener("click", () => show(current() + 1));
document.getElementById("previous").addEventListener("click", () => show(current() - 1));
window.addEventListener("beforeunload", (event) => { if (!saved) event.preventDefault(); });
