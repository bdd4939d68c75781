// Every visible element with text of its own, every placeholder, and every field by its edge, against the ground below it (WCAG 2.1, 1.4.3
// and 1.4.11); what is disabled is exempt. Gives those that are too faint.
() => {
  const parse = (text) => { const n = text.match(/[\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const linear = (value) => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = (c) => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)]; return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05); };
  const ground = (element) => {
    if (!element) return matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0, 1] : [255, 255, 255, 1];
    const own = parse(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own : over(own, ground(element.parentElement));
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const style = getComputedStyle(element), box = element.getBoundingClientRect();
    if (!box.width || style.visibility === "hidden" || element.closest(":disabled") || element.closest("label:has(:disabled)")) continue;
    if (["OPTION", "OPTGROUP", "SCRIPT", "STYLE", "NOSCRIPT"].includes(element.tagName)) continue;
    const below = ground(element);
    let fade = 1;
    for (let up = element; up; up = up.parentElement) fade *= Number(getComputedStyle(up).opacity);
    const says = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    const isField = element.matches("input:not([type=range]):not([type=radio]):not([type=checkbox]), select, textarea, button, .choices span");
    if (says || isField) {
      const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
      const ink = parse(style.color);
      const value = ratio(over([...ink.slice(0, 3), ink[3] * fade], below), below);
      if (fade > 0 && value < (large ? 3 : 4.5)) found.push(["text", element.tagName, element.className, element.textContent.trim().slice(0, 30), value.toFixed(2)]);
    }
    if (element.placeholder && !element.value) {
      const hint = getComputedStyle(element, "::placeholder"), ink = parse(hint.color);
      const value = ratio(over([...ink.slice(0, 3), ink[3] * fade * Number(hint.opacity)], below), below);
      if (value < 4.5) found.push(["placeholder", element.tagName, element.name, element.placeholder, value.toFixed(2)]);
    }
    if (isField) {
      const around = ground(element.parentElement);
      const edge = Math.max(ratio(over(parse(style.borderTopColor), around), around), ratio(below, around));
      if (edge < 3) found.push(["edge", element.tagName, element.className, element.textContent.trim().slice(0, 30), edge.toFixed(2)]);
    }
  }
  return found;
}
