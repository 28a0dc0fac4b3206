// The drawing area: strokes with a mouse, a finger or a pen, on white paper.

const SIDE = 512; // pixels of the paper
const SENT_SIDE = 64; // pixels of the picture that is sent: the service decodes so few at once
const UNIT = SIDE / 100; // the stroke's width is in hundredths of the paper

export class Pad {
  /**
   * @param canvas The canvas to draw on.
   * @param onChange Called with whether the pointer is still down.
   */
  constructor(canvas, onChange) {
    this.width = 8;
    this._canvas = canvas;
    this._onChange = onChange;
    this._strokes = [];
    this._undone = []; // strokes before each change, for undo
    this._pointer = null;
    canvas.width = canvas.height = SIDE;
    this._context = canvas.getContext("2d");
    this._listen();
    this._redraw();
  }

  get isEmpty() {
    return this._strokes.length === 0;
  }

  get canUndo() {
    return this._undone.length > 0;
  }

  undo() {
    this._strokes = this._undone.pop() ?? [];
    this._changed();
  }

  clear() {
    if (this.isEmpty) return;
    this._undone.push(this._strokes);
    this._strokes = [];
    this._changed();
  }

  /** Forget the drawing and what could be undone. */
  reset() {
    this._strokes = [];
    this._undone = [];
    this._redraw();
  }

  /** Return the drawing as a small PNG file. */
  picture() {
    const small = document.createElement("canvas");
    small.width = small.height = SENT_SIDE;
    const context = small.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(this._canvas, 0, 0, SENT_SIDE, SENT_SIDE);
    return new Promise((resolve) => small.toBlob(resolve, "image/png"));
  }

  _listen() {
    this._canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || this._pointer !== null) return;
      this._canvas.setPointerCapture(event.pointerId);
      this._pointer = event.pointerId;
      this._undone.push(this._strokes);
      this._strokes = [...this._strokes, { width: this.width, points: [this._point(event)] }];
      this._redraw();
      this._onChange(true);
    });
    this._canvas.addEventListener("pointermove", (event) => {
      if (event.pointerId !== this._pointer) return;
      const between = event.getCoalescedEvents?.() ?? [];
      const events = between.length > 0 ? between : [event];
      this._strokes.at(-1).points.push(...events.map((each) => this._point(each)));
      this._redraw();
      this._onChange(true);
    });
    for (const name of ["pointerup", "pointercancel"]) {
      this._canvas.addEventListener(name, (event) => {
        if (event.pointerId !== this._pointer) return;
        this._pointer = null;
        this._onChange(false);
      });
    }
  }

  _point(event) {
    const box = this._canvas.getBoundingClientRect();
    const scale = SIDE / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  _changed() {
    this._redraw();
    this._onChange(false);
  }

  _redraw() {
    this._context.fillStyle = "#fff";
    this._context.fillRect(0, 0, SIDE, SIDE);
    for (const stroke of this._strokes) draw(this._context, stroke.points, stroke.width * UNIT);
  }
}

/** Draw a smooth line through points `[x, y]`. */
export function draw(context, points, width) {
  context.strokeStyle = "#111";
  context.lineWidth = width;
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  context.moveTo(...points[0]);
  for (let i = 1; i < points.length - 1; i += 1) {
    const [x, y] = points[i];
    const [nextX, nextY] = points[i + 1];
    context.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
  }
  context.lineTo(...points.at(-1));
  context.stroke();
}
