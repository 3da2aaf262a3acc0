// The drawing area: a sheet of whole magnified pixels, so that what the model sees is their exact mean.

const SIDE = 336; // pixels of the longer side of the sheet, at most

export class Sheet {
  // canvas: to draw on; cross: the mark of the pen for those who draw by keys; changed: called after every stroke.
  constructor(canvas, cross, shape, light, changed) {
    [this.channels, this.height, this.width] = shape;
    this.scale = Math.max(1, Math.floor(SIDE / Math.max(this.height, this.width)));
    this.canvas = canvas;
    this.cross = cross;
    this.changed = changed;
    this.ground = light ? "#ffffff" : "#000000";
    this.ink = light ? "#000000" : "#ffffff";
    this.pen = 1; // in pixels of the model
    this.erases = false;
    this.down = false;
    this.at = { x: this.width / 2, y: this.height / 2 };
    canvas.width = this.width * this.scale;
    canvas.height = this.height * this.scale;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.clear();
    this.listen();
  }

  clear() {
    this.context.fillStyle = this.ground;
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
  }

  // Numbers in [0, 1], (C, H, W): the mean of every block of the sheet, as a byte divided by 255.
  read() {
    const { channels, height, width, scale } = this;
    const data = this.context.getImageData(0, 0, width * scale, height * scale).data;
    const pixels = new Float32Array(channels * height * width);
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        const sums = [0, 0, 0];
        for (let y = row * scale; y < (row + 1) * scale; y++) {
          for (let x = column * scale; x < (column + 1) * scale; x++) {
            for (let c = 0; c < 3; c++) sums[c] += data[4 * (y * width * scale + x) + c];
          }
        }
        for (let c = 0; c < channels; c++) {
          pixels[(c * height + row) * width + column] = Math.round(sums[c] / (scale * scale)) / 255;
        }
      }
    }
    return pixels;
  }

  // Put pixels (C, H, W) on the sheet, to be drawn upon.
  show(pixels) {
    paint(this.context, pixels, [this.channels, this.height, this.width], this.scale);
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      this.down = false; // the keys' pen is lifted
      this.stroke(this.place(event), this.place(event));
      this.last = this.place(event);
      event.preventDefault();
      canvas.focus({ preventScroll: true });
      this.cross.hidden = true;
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.last) return;
      const every = event.getCoalescedEvents?.() ?? [];
      for (const one of every.length ? every : [event]) {
        const to = this.place(one);
        this.stroke(this.last, to);
        this.last = to;
      }
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      canvas.addEventListener(end, () => (this.last = null));
    }
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => this.mark(canvas.matches(":focus-visible")));
    canvas.addEventListener("blur", () => {
      this.down = false;
      this.mark(false);
    });
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = ((event.clientX - box.left) * this.width) / box.width;
    const y = ((event.clientY - box.top) * this.height) / box.height;
    return (this.at = { x: Math.min(Math.max(x, 0), this.width), y: Math.min(Math.max(y, 0), this.height) });
  }

  key(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === " ") {
      this.down = !this.down;
      if (this.down) this.stroke(this.at, this.at);
    } else if (step) {
      const from = this.at;
      const x = Math.min(Math.max(from.x + step[0], 0), this.width);
      const y = Math.min(Math.max(from.y + step[1], 0), this.height);
      this.at = { x, y };
      if (this.down) this.stroke(from, this.at);
    } else {
      return;
    }
    event.preventDefault();
    this.mark(true);
  }

  mark(visible) {
    this.cross.hidden = !visible;
    this.cross.style.left = `${(100 * this.at.x) / this.width}%`;
    this.cross.style.top = `${(100 * this.at.y) / this.height}%`;
  }

  stroke(from, to) {
    const { context, scale } = this;
    context.strokeStyle = this.erases ? this.ground : this.ink;
    context.lineWidth = this.pen * scale;
    context.lineCap = "round";
    context.lineJoin = "round";
    context.beginPath();
    context.moveTo(from.x * scale, from.y * scale);
    context.lineTo(to.x * scale + 0.01, to.y * scale);
    context.stroke();
    this.changed();
  }
}

// Pixels (C, H, W) in [0, 1] onto a canvas, each as a square of so many pixels of the canvas.
export function paint(context, pixels, [channels, height, width], scale = 1) {
  const image = context.createImageData(width * scale, height * scale);
  const area = height * width;
  for (let y = 0; y < height * scale; y++) {
    for (let x = 0; x < width * scale; x++) {
      const from = Math.floor(y / scale) * width + Math.floor(x / scale);
      const to = 4 * (y * width * scale + x);
      for (let c = 0; c < 3; c++) image.data[to + c] = Math.round(255 * pixels[from + (channels === 3 ? c * area : 0)]);
      image.data[to + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
}
