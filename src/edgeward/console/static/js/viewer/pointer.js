// Mouse, pen and fingers on the stage of a pane. Responsible for turning their movements into what a person means.

const NOTCH = 40; // a wheel's notch is about 100, a touchpad sends many small ones

export function listen(pane, shared, activate) {
  const { stage } = pane;
  const down = new Map(); // pointer id -> last place
  let pinch = null;
  let deed = null;
  let rolled = 0;

  const place = (event) => {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const pixel = () => 1 / pane.place.scale;

  stage.addEventListener("pointerdown", (event) => {
    activate(pane);
    stage.setPointerCapture(event.pointerId);
    const at = place(event);
    down.set(event.pointerId, at);
    if (down.size === 2) {
      if (deed === "measure") pane.measurements.remove(pane.measurements.finish(pixel()));
      deed = "pinch";
      pinch = spread(down);
      return;
    }
    const measuring = shared.tool === "distance" || shared.tool === "ellipse";
    if (event.button === 1 || event.button === 2 || event.shiftKey) deed = "pan";
    else if (pane.measurements.begin(measuring ? shared.tool : null, pane.frame, pane.source(at), pixel(), event.pointerType)) deed = "measure";
    else deed = shared.tool;
    pane.draw();
  });

  stage.addEventListener("pointermove", (event) => {
    const at = place(event);
    pane.loupeAt = at;
    if (shared.loupe) pane.draw();
    const before = down.get(event.pointerId);
    if (!before) return;
    down.set(event.pointerId, at);
    const [dx, dy] = [at[0] - before[0], at[1] - before[1]];
    if (deed === "pinch" && down.size === 2) {
      const now = spread(down);
      pane.pan(now.middle[0] - pinch.middle[0], now.middle[1] - pinch.middle[1]);
      if (pinch.apart > 0) pane.zoom(now.apart / pinch.apart, now.middle);
      pinch = now;
    } else if (deed === "pan") pane.pan(dx, dy);
    else if (deed === "window") pane.shiftTone(-dy, dx); // up: brighter; to the right: less contrast
    else if (deed === "measure") { pane.measurements.move(pane.source(at)); pane.draw(); }
  });

  const up = (event) => {
    if (!down.delete(event.pointerId)) return;
    if (deed === "measure") pane.measurements.finish(pixel());
    if (down.size === 0) deed = null;
    else deed = "none"; // one finger of two is lifted: the other must not jump into another deed
    pane.draw();
  };
  stage.addEventListener("pointerup", up);
  stage.addEventListener("pointercancel", up);
  stage.addEventListener("pointerleave", () => { pane.loupeAt = null; if (shared.loupe) pane.draw(); });
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
  stage.addEventListener("dblclick", () => pane.move(null));
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    activate(pane);
    const delta = event.deltaMode === 1 ? event.deltaY * 16 : event.deltaY;
    // Where there is something to go through the wheel does that, as everywhere in radiology; with Ctrl, and by two fingers
    // on a touchpad, which browsers report as that, it zooms.
    if (pane.frames > 1 && !event.ctrlKey) {
      rolled += delta || event.deltaX;
      const by = Math.trunc(rolled / NOTCH);
      if (by) { rolled -= by * NOTCH; pane.step(by); }
    } else pane.zoom(Math.exp(-Math.min(200, Math.max(-200, delta)) / 400), place(event));
  }, { passive: false });
}

function spread(down) {
  const [a, b] = [...down.values()];
  return { apart: Math.hypot(a[0] - b[0], a[1] - b[1]), middle: [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2] };
}
