// Whether somebody is pointing. Responsible for that alone: what would move a part of the page waits until nobody points
// there, or a press meant for one thing is let go over another, and does nothing.

const REST_MS = 3000; // longer than from aiming to pressing; a pointer that is left lying holds nothing
const PRESS_MS = 30000; // a press that ends outside the window is not told of
const BANNER_MS = 600; // that a banner may wait: a failure is told within ten seconds all the same

/** Watch a part of the page; return a function that says for how many ms it has to stay where it is (0 or less: not). */
export function watch(part) {
  let [last, place, pressed] = [-REST_MS, "", false];
  // A pointer moves or presses. (The browser also tells of one when what is under it moves.)
  const point = (event) => {
    const now = `${event.clientX} ${event.clientY}`;
    if (event.type === "pointermove" && now === place) return;
    [last, place] = [performance.now(), now];
    pressed = event.type === "pointerdown" || (event.type === "pointermove" && event.buttons > 0);
  };
  for (const what of ["pointermove", "pointerdown", "pointerup", "pointercancel"]) part.addEventListener(what, point, { capture: true, passive: true });
  return () => last + (pressed ? PRESS_MS : REST_MS) - performance.now();
}

let pressedAt = -BANNER_MS;
const waiting = new Map(); // what to do after the press, by name

function release() {
  pressedAt = -BANNER_MS;
  for (const [name, act] of [...waiting]) if (waiting.delete(name)) act();
}

if (globalThis.document) {
  const options = { capture: true, passive: true };
  document.addEventListener("pointerdown", () => { pressedAt = performance.now(); }, options);
  for (const what of ["pointerup", "pointercancel"]) document.addEventListener(what, () => setTimeout(release), options); // its click comes first
}

/** Show or hide a banner by `act`: now, or once a press that is under way has done what it was meant for. Later calls replace earlier ones of that name. */
export function afterPress(name, act) {
  const left = pressedAt + BANNER_MS - performance.now();
  waiting.set(name, act);
  const due = () => { if (waiting.get(name) === act && waiting.delete(name)) act(); };
  if (left > 0) setTimeout(due, left); else due();
}
