// The script draws the map and shows the image that is pointed at. Nothing else needs it.
(() => {
  const section = document.getElementById("map");
  section.hidden = false;
  const data = JSON.parse(document.getElementById("points").textContent);
  const column = (Kind, text) =>
    new Kind(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
  const x = column(Float32Array, data.x), y = column(Float32Array, data.y);
  const rows = column(Uint32Array, data.row), count = rows.length;
  const ways = data.colourings.map((way) => ({ ...way, codes: column(Uint16Array, way.codes) }));

  const canvas = section.querySelector("canvas");
  // This script sets every pixel, so that the canvas may as well stay in main memory.
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const ring = section.querySelector(".ring"), select = section.querySelector("select");
  const legend = section.querySelector(".legend"), shown = section.querySelector(".shown");
  const PALETTE = 10, LEGEND = 24;
  let way = ways[0], only = -1, at = -1;
  let image, pixels, ratio, scale, centre, whole, queued = false;

  // The middle 99% of each axis fill the view: a few far points must not press the rest together.
  const middle = (values) => {
    const sorted = Float32Array.from(values).sort(), cut = Math.floor(count * 0.005);
    return [sorted[cut], sorted[count - 1 - cut]];
  };
  const [left, right] = middle(x), [low, high] = middle(y);

  function resize() {
    ratio = devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    image = context.createImageData(canvas.width, canvas.height);
    pixels = new Uint32Array(image.data.buffer);
    const fit = 0.92 * Math.min(canvas.width / (right - left || 1), canvas.height / (high - low || 1));
    if (scale === undefined || scale === whole) {
      scale = fit;
      centre = [(left + right) / 2, (low + high) / 2];
    }
    whole = fit;
    later();
  }

  const variable = (name) => {
    const text = getComputedStyle(section).getPropertyValue(name).trim();
    const [r, g, b] = [1, 3, 5].map((place) => parseInt(text.slice(place, place + 2), 16));
    return ((b << 16) | (g << 8) | r) >>> 0;
  };
  const variableOf = (code) =>
    way.variables[code] || (code < PALETTE ? `--p${code}` : "--soft");

  // Places of a disc's pixels around its middle: inner ones, and those that its edge runs through.
  function disc() {
    const size = count > 50000 ? 1.1 : count > 5000 ? 1.8 : count > 500 ? 2.8 : 4;
    const radius = size * ratio * Math.min(2.5, Math.max(1, Math.sqrt(scale / whole)));
    const reach = Math.ceil(radius), inner = [], edge = [];
    for (let dy = -reach; dy <= reach; dy++) {
      for (let dx = -reach; dx <= reach; dx++) {
        const far = Math.hypot(dx, dy);
        if (far <= radius - 0.5) inner.push(dy * canvas.width + dx);
        else if (far <= radius + 0.5) edge.push(dy * canvas.width + dx);
      }
    }
    return { reach, inner: Int32Array.from(inner), edge: Int32Array.from(edge) };
  }

  function draw() {
    queued = false;
    const { reach, inner, edge } = disc();
    // What is sought lies on top: the chosen group, or all that is not ordinary.
    const isOnTop = (code) => (only < 0 ? way.variables.length > 0 && code > 0 : code === only);
    const layers = Uint8Array.from(way.names, (_, code) => isOnTop(code));
    const colours = Uint32Array.from(way.names, (_, code) =>
      variable(only < 0 || code === only ? variableOf(code) : "--line"));
    pixels.fill(0);
    for (const layer of new Set(layers.slice().sort())) put(layer, layers, colours, reach, inner, edge);
    context.putImageData(image, 0, 0);
    mark();
  }

  function put(layer, layers, colours, reach, inner, edge) {
    const { width, height } = canvas, codes = way.codes, [cx, cy] = centre;
    for (let i = 0; i < count; i++) {
      const code = codes[i];
      if (layers[code] !== layer) continue;
      const px = ((x[i] - cx) * scale + width / 2) | 0, py = ((cy - y[i]) * scale + height / 2) | 0;
      if (px < reach || py < reach || px >= width - reach || py >= height - reach) continue;
      const solid = colours[code] | 0xff000000, soft = colours[code] | 0x80000000;
      const place = py * width + px;
      for (let k = 0; k < inner.length; k++) pixels[place + inner[k]] = solid;
      for (let k = 0; k < edge.length; k++) {
        if (pixels[place + edge[k]] === 0) pixels[place + edge[k]] = soft;
      }
    }
  }

  function later() {
    if (!queued) requestAnimationFrame(draw);
    queued = true;
  }

  function mark() {
    ring.hidden = at < 0;
    if (at < 0) return;
    ring.style.left = `${((x[at] - centre[0]) * scale + canvas.width / 2) / ratio}px`;
    ring.style.top = `${((centre[1] - y[at]) * scale + canvas.height / 2) / ratio}px`;
  }

  function point(px, py) {
    let best = 14 * ratio * 14 * ratio, found = -1;
    const dx0 = px * ratio - canvas.width / 2, dy0 = py * ratio - canvas.height / 2;
    for (let i = 0; i < count; i++) {
      const dx = (x[i] - centre[0]) * scale - dx0, dy = (centre[1] - y[i]) * scale - dy0;
      const far = dx * dx + dy * dy;
      if (far < best && (only < 0 || way.codes[i] === only)) [best, found] = [far, i];
    }
    if (found === at || found < 0) return;
    at = found;
    mark();
    const tile = document.createElement("div"), words = document.createElement("p");
    tile.className = "tile";
    const picture = document.querySelector(`[data-row="${rows[at]}"] img`);
    const none = document.createElement("p");
    none.textContent = "this page holds no picture of this image";
    tile.append(picture ? picture.cloneNode() : none);
    words.append(...ways.map((one) => {
      const line = document.createElement("span"), name = document.createElement("small");
      name.textContent = one.title;
      line.append(name, one.names[one.codes[at]]);
      return line;
    }));
    const key = document.createElement("span"), name = document.createElement("small");
    name.textContent = "key";
    key.append(name, data.key[at]);
    words.prepend(key);
    shown.replaceChildren(tile, words);
  }

  function tell() {
    const buttons = way.names.slice(0, LEGEND).map((name, code) => {
      const button = document.createElement("button"), dot = document.createElement("i");
      button.type = "button";
      button.setAttribute("aria-pressed", String(only === code));
      dot.style.background = `var(${variableOf(code)})`;
      button.append(dot, `${name} `, Object.assign(document.createElement("small"), {
        textContent: way.counts[code].toLocaleString("en"),
      }));
      button.addEventListener("click", () => {
        only = only === code ? -1 : code;
        tell();
        later();
      });
      return button;
    });
    const rest = way.names.length - buttons.length;
    if (rest > 0) buttons.push(`and ${rest.toLocaleString("en")} more`);
    legend.replaceChildren(...buttons);
  }

  function zoom(factor, px = canvas.clientWidth / 2, py = canvas.clientHeight / 2) {
    const dx = px * ratio - canvas.width / 2, dy = py * ratio - canvas.height / 2;
    const next = Math.min(200 * whole, Math.max(0.2 * whole, scale * factor));
    centre = [centre[0] + dx / scale - dx / next, centre[1] - dy / scale + dy / next];
    scale = next;
    // A finger scrolls the page until there is something to move in the map.
    canvas.style.touchAction = scale > whole ? "none" : "auto";
    later();
  }

  function pan(dx, dy) {
    centre = [centre[0] - (dx * ratio) / scale, centre[1] + (dy * ratio) / scale];
    later();
  }

  function reset() {
    [scale, whole] = [undefined, undefined];
    canvas.style.touchAction = "auto";
    resize();
  }

  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons) pan(event.movementX, event.movementY);
    else point(event.offsetX, event.offsetY);
  });
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    point(event.offsetX, event.offsetY);
  });
  canvas.addEventListener("dblclick", (event) => zoom(2, event.offsetX, event.offsetY));
  canvas.addEventListener("wheel", (event) => {
    // A plain wheel scrolls the page.
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 300), event.offsetX, event.offsetY);
  }, { passive: false });
  const keys = {
    ArrowLeft: () => pan(40, 0), ArrowRight: () => pan(-40, 0), ArrowUp: () => pan(0, 40),
    ArrowDown: () => pan(0, -40), "+": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: reset,
  };
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  section.querySelectorAll("[data-key]").forEach((button) =>
    button.addEventListener("click", keys[button.dataset.key]));
  select.addEventListener("change", () => {
    [way, only] = [ways[select.selectedIndex], -1];
    tell();
    later();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", later);
  new ResizeObserver(resize).observe(canvas);
  tell();
})();
