// Scrolls through the HU around a nodule: three planes of one block, linked by a crosshair.
const PLANES = {
  axial: { u: 0, v: 1, w: 2, letters: ["R", "L", "A", "P"], up: false },
  coronal: { u: 0, v: 2, w: 1, letters: ["R", "L", "S", "I"], up: true },
  sagittal: { u: 1, v: 2, w: 0, letters: ["A", "P", "S", "I"], up: true },
};
const MARK = "#ffc13d", ADDED = "#6ee7a8", TEXT = "#ecf0f4";

const windowOf = (name) => data.windows.find((item) => item.name === name).values.slice();

function bytesOf(base64) {
  const text = atob(base64.trim());
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

// What pipeline/review/stack.py packed: head, then zlib of folded differences, low bytes before high bytes.
async function openStack(base64) {
  const bytes = bytesOf(base64);
  const length = new DataView(bytes.buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const packed = new Blob([bytes.subarray(4 + length)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(packed).arrayBuffer());
  const [nz, ny, nx] = head.shape;
  const n = nz * ny * nx;
  const hu = new Int16Array(n);
  for (let row = 0; row < n; row += nx) {
    let value = 0;
    for (let i = row; i < row + nx; i++) {
      const folded = planes[i] | (planes[n + i] << 8);
      value = ((value + ((folded >>> 1) ^ -(folded & 1))) << 16) >> 16;
      hu[i] = value * head.step_hu;
    }
  }
  return { head, hu, n: [nx, ny, nz], stride: [1, nx, nx * ny] };
}

class Viewer {
  constructor(root, stack, title) {
    this.root = root;
    this.stack = stack;
    this.title = title;
    this.marks = () => [];
    this.windows = { main: windowOf("lung"), soft: windowOf("mediastinal") };
    this.tiles = Array.from(root.querySelectorAll(".tile")).map((figure) => this.makeTile(figure));
    this.active = this.tiles[0];
    this.makeTools();
    this.reset();
    const resized = new ResizeObserver(() => this.draw());
    for (const tile of this.tiles) resized.observe(tile.canvas);
    root.classList.add("live");
  }

  makeTile(figure) {
    const [planeName, windowName] = figure.dataset.view.split("-");
    const tile = { figure, planeName, plane: PLANES[planeName], group: windowName === "mediastinal" ? "soft" : "main" };
    const name = figure.querySelector("figcaption").textContent.split(",")[0];
    const canvas = document.createElement("canvas");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-roledescription", "scrolled image");
    canvas.setAttribute("aria-label", name + ", " + this.title + ". Arrow keys scroll, Shift and arrows move the crosshair.");
    const slider = document.createElement("input");
    slider.type = "range";
    slider.min = 0;
    slider.max = this.stack.n[tile.plane.w] - 1;
    slider.setAttribute("aria-label", "Slice, " + name.toLowerCase() + (tile.group === "soft" ? " mediastinal" : "") + ", " + this.title);
    figure.querySelector(".picture").append(canvas);
    figure.insertBefore(slider, figure.querySelector("figcaption"));
    Object.assign(tile, { name, canvas, slider, caption: figure.querySelector("figcaption"), layer: document.createElement("canvas") });
    slider.addEventListener("input", () => { this.choose(tile); this.scrollTo(tile, this.fromTop(tile, Number(slider.value))); });
    canvas.addEventListener("focus", () => this.choose(tile));
    canvas.addEventListener("wheel", (event) => this.wheel(tile, event), { passive: false });
    canvas.addEventListener("dblclick", () => this.enlarge(tile));
    this.listenToPointer(tile);
    return tile;
  }

  makeTools() {
    const tools = this.root.querySelector(".tools");
    const button = (text, key, action, name) => {
      const element = document.createElement("button");
      element.type = "button";
      element.className = "plain small";
      element.textContent = text + " ";
      const hint = document.createElement("kbd");
      hint.className = "wide";
      hint.textContent = key;
      element.append(hint);
      if (name) element.dataset.window = name;
      element.addEventListener("click", action);
      tools.append(element);
      return element;
    };
    data.windows.forEach(({ name }, i) =>
      button(name[0].toUpperCase() + name.slice(1), String(i + 1), () => this.setWindow(windowOf(name)), name));
    this.fields = ["W", "L"].map((letter, at) => {
      const label = document.createElement("label");
      const field = document.createElement("input");
      field.type = "number";
      field.step = 10;
      field.setAttribute("aria-label", (at ? "Window level" : "Window width") + " in HU, " + this.title);
      field.addEventListener("change", () => {
        const next = this.windows[this.active.group].slice();
        if (field.value !== "") next[at] = Number(field.value);
        this.setWindow(next);
      });
      label.append(letter, field);
      tools.append(label);
      return field;
    });
    button("Reset", "0", () => this.reset());
    button("Enlarge", "Z", () => this.enlarge(this.active));
    button("Missed nodule here", "N", () => addMissedHere(this));
    this.readout = document.createElement("output");
    this.readout.className = "soft number";
    tools.append(this.readout);
    tools.hidden = false;
  }

  index(axis, mm) {
    const { origin_lps_mm: origin, spacing_mm: spacing } = this.stack.head;
    return Math.max(0, Math.min(this.stack.n[axis] - 1, Math.round((mm - origin[axis]) / spacing[axis])));
  }

  // Sliders and the wheel go from the head to the feet, from front to back and from right to left.
  fromTop(tile, index) { return tile.plane.w === 2 ? this.stack.n[2] - 1 - index : index; }

  scrollTo(tile, index) {
    const axis = tile.plane.w;
    const at = Math.max(0, Math.min(this.stack.n[axis] - 1, index));
    this.cross[axis] = this.stack.head.origin_lps_mm[axis] + at * this.stack.head.spacing_mm[axis];
    this.draw();
  }

  scrollBy(tile, steps) {
    const axis = tile.plane.w;
    this.scrollTo(tile, this.index(axis, this.cross[axis]) + (axis === 2 ? -steps : steps));
  }

  wheel(tile, event) {
    if (event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.choose(tile);
    this.turned = (this.turned || 0) + event.deltaY * (event.deltaMode === 1 ? 30 : 1);
    const steps = Math.trunc(this.turned / 30) || (Math.abs(event.deltaY) >= 4 ? Math.sign(event.deltaY) : 0);
    if (steps) { this.turned = 0; this.scrollBy(tile, Math.max(-3, Math.min(3, steps > 0 ? Math.ceil(steps / 4) : Math.floor(steps / 4)))); }
  }

  listenToPointer(tile) {
    const canvas = tile.canvas;
    let start = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button > 0) return;
      this.choose(tile);
      canvas.setPointerCapture(event.pointerId);
      start = { x: event.clientX, y: event.clientY, moved: false, window: this.windows[tile.group].slice(), done: 0 };
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!start) return;
      const dx = event.clientX - start.x, dy = event.clientY - start.y;
      if (!start.moved && Math.hypot(dx, dy) < 5) return;
      start.moved = true;
      if (event.pointerType === "touch") {
        // A finger scrolls: one slice for every few millimetres of a swipe to the side.
        const steps = Math.round(dx / Math.max(6, canvas.clientWidth / 40));
        this.scrollBy(tile, steps - start.done);
        start.done = steps;
      } else {
        const gain = Math.max(1, start.window[0] / 300);
        this.setWindow([start.window[0] + dx * gain, start.window[1] + dy * gain]);
      }
    });
    const end = (event) => {
      if (start && !start.moved && event.type === "pointerup") this.pointAt(tile, event.offsetX, event.offsetY);
      start = null;
    };
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
  }

  pointAt(tile, x, y) {
    const { u, v, up } = tile.plane, { field_mm: field, center_lps_mm: center } = this.stack.head;
    const scale = field / tile.canvas.clientWidth;
    this.cross[u] = center[u] - field / 2 + x * scale;
    this.cross[v] = up ? center[v] + field / 2 - y * scale : center[v] - field / 2 + y * scale;
    this.draw();
  }

  // Moves the crosshair by millimetres to the right and down of a picture.
  nudge(tile, right, down) {
    const { u, v, up } = tile.plane, { field_mm: field, center_lps_mm: center } = this.stack.head;
    const held = (axis, mm) => Math.max(center[axis] - field / 2, Math.min(center[axis] + field / 2, mm));
    this.cross[u] = held(u, this.cross[u] + right);
    this.cross[v] = held(v, this.cross[v] + (up ? -down : down));
    this.draw();
  }

  choose(tile) {
    if (this.active === tile) return;
    this.active = tile;
    this.draw();
  }

  setWindow([width, level]) {
    this.windows[this.active.group] = [Math.round(Math.max(1, Math.min(8000, width))), Math.round(Math.max(-2000, Math.min(4000, level)))];
    this.draw();
  }

  reset() {
    this.cross = this.stack.head.center_lps_mm.slice();
    this.windows = { main: windowOf("lung"), soft: windowOf("mediastinal") };
    this.draw();
  }

  enlarge(tile) {
    const was = tile.figure.classList.contains("large");
    for (const each of this.tiles) each.figure.classList.toggle("large", each === tile && !was);
    this.root.classList.toggle("enlarged", !was);
    tile.canvas.focus({ preventScroll: true });
    this.root.scrollIntoView({ block: "nearest" });
  }

  valueAt(mm) {
    const { origin_lps_mm: origin, spacing_mm: spacing } = this.stack.head;
    let at = 0;
    for (const axis of [0, 1, 2]) {
      const index = Math.round((mm[axis] - origin[axis]) / spacing[axis]);
      if (index < 0 || index >= this.stack.n[axis]) return null;
      at += index * this.stack.stride[axis];
    }
    return this.stack.hu[at];
  }

  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      for (const tile of this.tiles) this.drawTile(tile);
      const [x, y, z] = this.cross, value = this.valueAt(this.cross);
      this.readout.textContent = "L " + x.toFixed(1) + "  P " + y.toFixed(1) + "  S " + z.toFixed(1) + " mm" + (value === null ? "" : "  ·  " + value + " HU");
      const shown = this.windows[this.active.group];
      this.fields.forEach((field, at) => { if (document.activeElement !== field) field.value = shown[at]; });
      for (const button of this.root.querySelectorAll("[data-window]")) {
        const preset = windowOf(button.dataset.window);
        button.setAttribute("aria-pressed", String(preset[0] === shown[0] && preset[1] === shown[1]));
      }
    });
  }

  drawTile(tile) {
    const side = Math.round(tile.canvas.clientWidth * (window.devicePixelRatio || 1));
    if (!side) return;
    if (tile.canvas.width !== side) { tile.canvas.width = side; tile.canvas.height = side; }
    const { u, v, w, up } = tile.plane, { head, hu, n, stride } = this.stack;
    const index = this.index(w, this.cross[w]);
    const [width, level] = this.windows[tile.group];
    const layer = tile.layer, key = [index, width, level].join();
    if (tile.shown !== key) {
      tile.shown = key;
      layer.width = n[u];
      layer.height = n[v];
      const image = new ImageData(n[u], n[v]);
      const low = level - width / 2, gain = 255 / width;
      for (let row = 0, to = 0; row < n[v]; row++) {
        let from = index * stride[w] + (up ? n[v] - 1 - row : row) * stride[v];
        for (let column = 0; column < n[u]; column++, from += stride[u], to += 4) {
          const grey = (hu[from] - low) * gain;
          image.data[to] = image.data[to + 1] = image.data[to + 2] = grey;
          image.data[to + 3] = 255;
        }
      }
      layer.getContext("2d").putImageData(image, 0, 0);
    }
    const { origin_lps_mm: origin, spacing_mm: spacing, center_lps_mm: center, field_mm: field } = head;
    const scale = side / field, pen = tile.canvas.getContext("2d");
    const across = (mm) => (mm - center[u] + field / 2) * scale;
    const down = (mm) => (up ? center[v] + field / 2 - mm : mm - center[v] + field / 2) * scale;
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, side, side);
    pen.imageSmoothingEnabled = true;
    pen.imageSmoothingQuality = "high";
    const top = up ? origin[v] + (n[v] - 0.5) * spacing[v] : origin[v] - spacing[v] / 2;
    pen.drawImage(layer, across(origin[u] - spacing[u] / 2), down(top), n[u] * spacing[u] * scale, n[v] * spacing[v] * scale);
    this.drawMarks(tile, pen, side, scale, across, down);
    const numbers = head.slice_numbers, from = this.fromTop(tile, index);
    const total = this.total ? "/" + this.total : "";
    const where = w === 2 && numbers.length ? "slice " + numbers[index] + total : tile.planeName + " " + (index + 1) + "/" + n[w];
    this.write(pen, where, 8, 8, "left", "top", side);
    this.write(pen, "W " + width + "  L " + level, 8, -8, "left", "bottom", side);
    tile.slider.value = from;
    tile.slider.setAttribute("aria-valuetext", where);
    const named = data.windows.find(({ values }) => values[0] === width && values[1] === level);
    tile.caption.textContent = tile.name + " · " + (named ? named.name : "free") + " window";
    tile.figure.classList.toggle("active", tile === this.active);
  }

  drawMarks(tile, pen, side, scale, across, down) {
    const { u, v, w } = tile.plane, { head } = this.stack, ratio = window.devicePixelRatio || 1;
    const x = across(this.cross[u]), y = down(this.cross[v]);
    const away = Math.hypot(...[0, 1, 2].map((axis) => this.cross[axis] - head.center_lps_mm[axis]));
    const gap = (away < head.diameter_mm / 2 ? head.diameter_mm / 2 * scale : 0) + 14 * ratio;
    pen.lineWidth = 1.5 * ratio;
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      pen.strokeStyle = MARK;
      pen.globalAlpha = 0.35;
      pen.beginPath();
      pen.moveTo(x + dx * gap, y + dy * gap);
      pen.lineTo(x + dx * side * 2, y + dy * side * 2);
      pen.stroke();
      pen.globalAlpha = 1;
      pen.beginPath();
      pen.moveTo(x + dx * gap, y + dy * gap);
      pen.lineTo(x + dx * (gap + 14 * ratio), y + dy * (gap + 14 * ratio));
      pen.stroke();
    }
    for (const mark of this.marks()) {
      if (Math.abs(mark.lps_mm[w] - this.cross[w]) > Math.max(2, mark.diameter_mm / 2 || 0, head.spacing_mm[w] / 2)) continue;
      pen.strokeStyle = ADDED;
      pen.beginPath();
      pen.arc(across(mark.lps_mm[u]), down(mark.lps_mm[v]), Math.max(7 * ratio, (mark.diameter_mm || 0) / 2 * scale + 4 * ratio), 0, 7);
      pen.stroke();
    }
    const [left, right, top, bottom] = tile.plane.letters;
    this.write(pen, left, 8, side / 2 / ratio, "left", "middle", side);
    this.write(pen, right, -8, side / 2 / ratio, "right", "middle", side);
    this.write(pen, top, side / 2 / ratio, 8, "center", "top", side);
    this.write(pen, bottom, side / 2 / ratio, -8, "center", "bottom", side);
    const length = head.field_mm <= 80 ? 10 : 20, end = side - 10 * ratio, at = side - 12 * ratio;
    for (const [colour, wide] of [["#000", 4], [TEXT, 2]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = wide * ratio;
      pen.beginPath();
      pen.moveTo(end - length * scale, at);
      pen.lineTo(end, at);
      for (const tick of [end - length * scale, end]) { pen.moveTo(tick, at - 4 * ratio); pen.lineTo(tick, at + 4 * ratio); }
      pen.stroke();
    }
    this.write(pen, length + " mm", -10 - length * scale / ratio / 2, -18, "center", "bottom", side);
  }

  // Text with a dark rim; a negative place counts from the far edge.
  write(pen, text, x, y, align, baseline, side) {
    const ratio = window.devicePixelRatio || 1;
    pen.font = 12 * ratio + "px system-ui, sans-serif";
    pen.textAlign = align;
    pen.textBaseline = baseline;
    pen.lineWidth = 3 * ratio;
    pen.lineJoin = "round";
    pen.strokeStyle = "#000";
    pen.fillStyle = TEXT;
    const at = [x < 0 ? side + x * ratio : x * ratio, y < 0 ? side + y * ratio : y * ratio];
    pen.strokeText(text, ...at);
    pen.fillText(text, ...at);
  }
}
